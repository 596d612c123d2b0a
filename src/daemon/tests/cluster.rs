//! Volumes on key servers that are not well, or have not what they should: what a daemon makes of it.

use super::key_servers::{add, at, support};
use super::*;
use support::Pki;
use support::store::{GENERAL_FAILURE, Store, StoredKey};

use crate::control::{Events, ProviderAddKmip, ProviderCheck};

fn lock(host: &mut Host) {
    host.call(&ProviderLock { name: "cluster".parse().unwrap() }).unwrap();
}

#[test]
fn a_volume_waits_for_a_server_whose_database_is_not_up_yet() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("1", 1_700_000_000)]);
    let server = store.serve(&pki);
    let mut host = Host::start();
    host.call(&add(&pki, &[at(server.port)])).unwrap();
    host.create("vol", host.image("disk")).unwrap();
    lock(&mut host);
    store.contents().refuse_all(Some(GENERAL_FAILURE));
    let failure = host.want("vol");
    assert!(failure.message.contains("general failure"), "{failure}");
    assert!(host.status("vol").wanted);
    // A restart of the host: the daemon tries again by itself, and is refused again.
    host.restart();
    let asked = store.contents().messages;
    host.wait_until("it was tried again", |_| store.contents().messages > asked + 2);
    assert!(host.status("vol").wanted, "a refusal that passes does not end the wish");
    store.contents().refuse_all(None);
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
}

#[test]
fn a_host_certificate_that_ends_soon_is_an_event_and_in_the_check() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("1", 1_700_000_000)]);
    let server = store.serve(&pki);
    let mut host = Host::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let near = pki.client_between("near", now - 60, now + 2 * 86_400);
    let call = ProviderAddKmip {
        certificate: near.certificate.clone(),
        key: near.key,
        ..add(&pki, &[at(server.port)])
    };
    host.call(&call).unwrap();
    host.create("vol", host.image("disk")).unwrap();
    let checked = host.call(&ProviderCheck { name: "cluster".parse().unwrap() }).unwrap();
    assert_eq!(checked.host.unwrap().subject, "CN=near");
    assert!(checked.warning.unwrap().contains("near.pem"));
    host.restart();
    let told = |host: &mut Host| {
        let events = host.call(&Events::default()).unwrap().events;
        events.into_iter().find(|event| event.verb == "host certificate")
    };
    host.wait_until("it is an event", |host| told(host).is_some());
    let event = told(&mut host).unwrap();
    assert_eq!((event.provider.as_deref(), event.uid), (Some("cluster"), None));
    assert!(event.message.unwrap().contains("near.pem"));

    // Once it is over volumes wait for the new one.
    lock(&mut host);
    let over = pki.client_between("near", now - 7200, now - 3600);
    let failure = host.want("vol");
    assert!(failure.message.contains("near.pem") && failure.message.contains("ended at"), "{failure}");
    assert_eq!(over.certificate, near.certificate);
    pki.client_between("near", now - 60, now + 86_400);
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
}
