//! Servers that answer and are not well: what they refuse now they may do later.

use blkseal::provider::kmip::KmipEvent;
use blkseal::provider::{Availability, KeyProvider, ProviderError};

use crate::support::message::address;
use crate::support::store::{GENERAL_FAILURE, NOT_FOUND, Store, StoredKey};
use crate::support::{Client, Pki, config, free_port};

fn store() -> Store {
    Store::new(vec![StoredKey::new("1", 1_700_000_000)])
}

#[test]
fn a_failure_that_passes_is_no_refusal() {
    let pki = Pki::new();
    let (first, second) = (store(), store());
    let servers = [first.serve(&pki), second.serve(&pki)];
    let id = "1".parse().unwrap();
    // Response Too Large, Operation Canceled, General Failure, and one that no standard has.
    for reason in [0x02, 0x09, GENERAL_FAILURE, 0x7777] {
        first.contents().refuse_all(Some(reason));
        let both = Client::new(config(&pki, &[servers[0].port, servers[1].port]));
        both.provider.fetch_kek(&id).unwrap();
        let events = both.events();
        let told = matches!(&events[0], KmipEvent::ServerFailed { server, .. }
            if *server == address(servers[0].port));
        assert!(told, "{reason:#x}: {events:?}");

        let alone = Client::new(config(&pki, &[servers[0].port]));
        let error = alone.provider.fetch_kek(&id).err().unwrap();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{reason:#x}: {error}");
        assert_eq!(alone.provider.availability(), Availability::Unavailable);
        first.contents().refuse_all(None);
        alone.provider.fetch_kek(&id).unwrap();
        assert_eq!(alone.provider.availability(), Availability::Ready);
    }
}

#[test]
fn a_key_is_gone_only_where_every_server_says_so() {
    let pki = Pki::new();
    let (empty, also_empty) = (Store::new(Vec::new()), Store::new(Vec::new()));
    let servers = [empty.serve(&pki), also_empty.serve(&pki)];
    let id = "1".parse().unwrap();
    let fetched = |ports: &[u16]| Client::new(config(&pki, ports)).provider.fetch_kek(&id).err().unwrap();
    let gone = fetched(&[servers[0].port, servers[1].port]);
    assert!(matches!(gone, ProviderError::KekGone { .. }), "{gone}");
    // The other one may have it, once it is back.
    for ports in [[servers[0].port, free_port()], [free_port(), servers[0].port]] {
        let error = fetched(&ports);
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{error}");
        let text = error.to_string();
        assert!(ports.iter().all(|port| text.contains(&port.to_string())), "{text}");
    }
    also_empty.contents().refuse_all(Some(GENERAL_FAILURE));
    let error = fetched(&[servers[0].port, servers[1].port]);
    assert!(matches!(error, ProviderError::Unreachable { .. }), "{error}");
    also_empty.contents().refuse_all(Some(NOT_FOUND));
    let gone = fetched(&[servers[0].port, servers[1].port]);
    assert!(matches!(gone, ProviderError::KekGone { .. }), "{gone}");
}
