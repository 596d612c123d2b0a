//! A KEK that is on one server only: what it wrapped would be lost with that server.

use std::time::Duration;

use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::kmip::{KmipEvent, Limits};
use blkseal::provider::{KeyProvider, ProviderError, wrap};
use ublk_targets::secret::Dek;

use crate::support::message::{PERMISSION, address};
use crate::support::store::{GENERAL_FAILURE, Store, StoredKey};
use crate::support::{Client, LIMITS, Pki, config, free_port};

fn with_key() -> Store {
    Store::new(vec![StoredKey::new("1", 1_700_000_000)])
}

#[test]
fn nothing_is_wrapped_by_a_kek_that_another_server_has_not() {
    let pki = Pki::new();
    let (full, also_full, empty) = (with_key(), with_key(), Store::new(Vec::new()));
    let servers = [full.serve(&pki), also_full.serve(&pki), empty.serve(&pki)];
    let ports = servers.each_ref().map(|server| server.port);
    let id = "1".parse().unwrap();
    let client = Client::new(config(&pki, &ports));
    let error = client.provider.fetch_kek(&id).err().unwrap();
    assert!(matches!(error, ProviderError::NotReplicated { .. }), "{error}");
    let text = error.to_string();
    let named = [ports[0], ports[2]].iter().all(|port| text.contains(&port.to_string()));
    assert!(named && text.contains("not replicated"), "{text}");
    assert!(error.hint().unwrap().contains("--allow-unreplicated"));
    assert!(!client.provider.holds_kek(&id));
    assert!(
        empty.contents().asked.iter().filter(|asked| **asked == Operation::Get).count() > 1,
        "it may come"
    );

    // To open what it wrapped already is another thing.
    let dek = Dek::generate().unwrap();
    let kek = Client::new(config(&pki, &ports[..1])).provider.fetch_kek(&id).unwrap();
    let wrapped = wrap::wrap(&kek, &dek).unwrap();
    assert!(client.provider.unwrap_dek(&id, &wrapped).unwrap().expose() == dek.expose());
    // And that it is in memory now does not make it safe.
    let error = client.provider.fetch_kek(&id).err().unwrap();
    assert!(matches!(error, ProviderError::NotReplicated { .. }), "{error}");

    let mut daring = config(&pki, &ports);
    daring.allow_unreplicated = true;
    let daring = Client::new(daring);
    daring.provider.fetch_kek(&id).unwrap();
    let told = KmipEvent::KeyNotReplicated { id: id.clone(), lacking: address(ports[2]) };
    assert!(daring.events().contains(&told));

    empty.contents().keys = full.contents().keys.clone();
    client.provider.fetch_kek(&id).unwrap();
}

#[test]
fn a_kek_that_comes_to_the_other_server_soon_is_waited_for() {
    let pki = Pki::new();
    let (full, late) = (with_key(), Store::new(Vec::new()));
    let servers = [full.serve(&pki), late.serve(&pki)];
    let mut patient = config(&pki, &servers.each_ref().map(|server| server.port));
    patient.limits = Limits { replication: 60_000, ..LIMITS };
    let client = Client::new(patient);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !late.contents().asked.contains(&Operation::Get) {
                std::thread::sleep(Duration::from_millis(5));
            }
            late.contents().keys = full.contents().keys.clone();
        });
        client.provider.fetch_kek(&"1".parse().unwrap()).unwrap();
    });
}

#[test]
fn a_server_that_cannot_say_is_no_objection() {
    let pki = Pki::new();
    let (full, mute) = (with_key(), with_key());
    let servers = [full.serve(&pki), mute.serve(&pki)];
    let id = "1".parse().unwrap();
    for reason in [PERMISSION, GENERAL_FAILURE] {
        mute.contents().refuse_all(Some(reason));
        let client = Client::new(config(&pki, &servers.each_ref().map(|server| server.port)));
        client.provider.fetch_kek(&id).unwrap();
    }
    let alone = Client::new(config(&pki, &[servers[0].port, free_port()]));
    alone.provider.fetch_kek(&id).unwrap();
}
