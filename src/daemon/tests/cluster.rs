//! Volumes on key servers that are not well, or have not what they should: what a daemon makes of it.

use super::key_servers::{add, at, support};
use super::*;
use support::Pki;
use support::store::{GENERAL_FAILURE, Store, StoredKey};

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
