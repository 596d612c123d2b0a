//! The life of a key, from its making to its end.

use blkseal::provider::kmip::KmipEvent;
use blkseal::provider::{Availability, KekChange, KekId, KekState, KeyProvider, ProviderError, Revocation};
use ublk_targets::secret::Secret;

use crate::support::message::address;
use crate::support::{Client, Pki, PyKmip, config};

#[test]
fn a_key_is_made_fetched_deactivated_and_destroyed() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let client = Client::new(config(&pki, &[server.port]));
    let provider = &client.provider;
    assert_eq!(provider.availability(), Availability::Ready);
    assert!(provider.list_keks().unwrap().is_empty());

    let (first, second) = (provider.create_kek().unwrap(), provider.create_kek().unwrap());
    let at = address(server.port);
    let made = |id: &KekId| KmipEvent::KeyMade { id: id.clone(), server: at.clone() };
    let events = client.events();
    assert!([&first, &second].iter().all(|id| events.contains(&made(id))), "{events:?}");
    let keks = provider.list_keks().unwrap();
    assert_eq!(
        keks.iter().map(|kek| (&kek.id, kek.state)).collect::<Vec<_>>(),
        [(&first, KekState::Active), (&second, KekState::Active)]
    );
    assert!(keks[0].created.elapsed().unwrap().as_secs() < 600);

    let kek = provider.fetch_kek(&first).unwrap();
    assert!(kek.expose() != provider.fetch_kek(&second).unwrap().expose());
    assert!(kek.expose().iter().any(|&byte| byte != 0));
    client.events();

    let changed = provider.change_kek(&first, KekChange::Revoke(Revocation::Superseded)).unwrap();
    assert_eq!(changed, KekState::Deactivated);
    provider.change_kek(&second, KekChange::Revoke(Revocation::Compromise)).unwrap();
    let states: Vec<_> = provider.list_keks().unwrap().into_iter().map(|kek| kek.state).collect();
    assert_eq!(states, [KekState::Deactivated, KekState::Compromised]);
    provider.lock();
    assert!(provider.fetch_kek(&first).unwrap().expose() == kek.expose(), "it still unwraps");
    provider.fetch_kek(&second).unwrap();
    let warnings: Vec<_> = client
        .events()
        .into_iter()
        .filter_map(|event| match event {
            KmipEvent::KeyOutOfUse { id, state, .. } => Some((id, state)),
            _ => None,
        })
        .collect();
    assert_eq!(warnings, [(first.clone(), KekState::Deactivated), (second.clone(), KekState::Compromised)]);

    assert_eq!(provider.known_state(&second), Some(KekState::Compromised), "and that is known from now on");

    provider.change_kek(&first, KekChange::Destroy).unwrap();
    let changed = |id: &KekId, state| KmipEvent::KeyChanged { id: id.clone(), server: at.clone(), state };
    let dropped = KmipEvent::KeyDropped(first.clone());
    assert_eq!(client.events(), [changed(&first, KekState::Destroyed), dropped]);
    let gone = provider.fetch_kek(&first).err().unwrap();
    assert!(matches!(&gone, ProviderError::KekGone { id, .. } if *id == first), "{gone}");
    let text = gone.to_string();
    let names = [first.as_str(), "cluster", &format!("127.0.0.1:{}", server.port)];
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn keys_of_other_groups_are_not_listed() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let mut config = config(&pki, &[server.port]);
    let one = Client::new(config.clone());
    config.group = "another".into();
    let other = Client::new(config);
    let id = one.provider.create_kek().unwrap();
    assert!(other.provider.list_keks().unwrap().is_empty());
    assert_eq!(one.provider.list_keks().unwrap().len(), 1);
    // Which group a key is in says nothing about who may have it: a volume can come from another host.
    other.provider.fetch_kek(&id).unwrap();
}

#[test]
fn keys_survive_a_restart_of_the_server() {
    let pki = Pki::new();
    let mut server = PyKmip::start(&pki, "keys");
    let client = Client::new(config(&pki, &[server.port]));
    let id = client.provider.create_kek().unwrap();
    let before = client.provider.fetch_kek(&id).unwrap();
    server.stop();
    server.restart();
    client.provider.lock();
    let after = client.provider.fetch_kek(&id).unwrap();
    assert!(before.expose() == after.expose());
}

#[test]
fn a_key_waits_until_it_is_activated() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let client = Client::new(config(&pki, &[server.port]));
    let provider = &client.provider;
    let active = provider.create_kek().unwrap();
    let waiting = provider.create_inactive_kek().unwrap();
    assert_eq!(provider.wrapping_kek(), Some(active));
    assert_eq!(provider.kek(&waiting).unwrap().state, KekState::PreActive);
    let unusable = provider.fetch_kek(&waiting).err().unwrap();
    assert!(matches!(&unusable, ProviderError::KekUnusable { state: KekState::PreActive, .. }), "{unusable}");
    for _ in 0..2 {
        // The second time there is nothing left to do.
        assert_eq!(provider.change_kek(&waiting, KekChange::Activate).unwrap(), KekState::Active);
    }
    assert_eq!(provider.wrapping_kek(), Some(waiting.clone()));
    provider.fetch_kek(&waiting).unwrap();
}

#[test]
fn an_active_key_is_not_destroyed_and_a_revoked_one_not_activated() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let client = Client::new(config(&pki, &[server.port]));
    let id = client.provider.create_kek().unwrap();
    let refused = |change: KekChange| client.provider.change_kek(&id, change).err().unwrap();
    let destroyed = refused(KekChange::Destroy);
    assert!(matches!(destroyed, ProviderError::KekChange { .. }), "{destroyed}");
    client.provider.change_kek(&id, KekChange::Revoke(Revocation::Superseded)).unwrap();
    let activated = refused(KekChange::Activate);
    assert!(matches!(activated, ProviderError::KekChange { .. }), "{activated}");
    client.provider.fetch_kek(&id).unwrap();
}

#[test]
fn there_is_nothing_to_unlock() {
    let pki = Pki::new();
    let client = Client::new(config(&pki, &[1]));
    let unlocked = client.provider.unlock(&Secret::random(8).unwrap());
    assert!(matches!(unlocked, Err(ProviderError::NothingToUnlock(_))));
}
