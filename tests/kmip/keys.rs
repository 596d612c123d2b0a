//! Keys that are not blkseal's, that nobody may look at, that are many, or whose dates mislead: none of them stops what has
//! to do with the others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::kmip::{KmipEvent, Limits};
use blkseal::provider::{KekChange, KekState, KeyProvider, ProviderError, Revocation};
use blkseal::volume::wrapping_kek;

use crate::support::message::PERMISSION;
use crate::support::store::{NOT_FOUND, Store, StoredKey};
use crate::support::{Client, LIMITS, Pki, PyKmip, config};

const LONG_AGO: i64 = 1_700_000_000;

fn listed(client: &Client) -> Vec<String> {
    client.provider.list_keks().unwrap().into_iter().map(|kek| kek.id.to_string()).collect()
}

fn chosen(client: &Client) -> String {
    wrapping_kek(&client.provider, None).unwrap().to_string()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

#[test]
fn one_key_that_is_not_to_be_had_does_not_hide_the_others() {
    let pki = Pki::new();
    let spoil: [fn(&mut StoredKey); 5] = [
        |key| key.refused = Some(PERMISSION),
        |key| key.refused = Some(NOT_FOUND),
        |key| key.refused = Some(0x36), // destroyed
        |key| key.bits = 128,
        |key| key.state = 77,
    ];
    for batches in [true, false] {
        for spoil in spoil {
            let mut theirs = StoredKey::new("theirs", LONG_AGO + 100);
            spoil(&mut theirs);
            let store = Store::new(vec![
                StoredKey::new("old", LONG_AGO),
                theirs,
                StoredKey::new("new", LONG_AGO + 1),
            ]);
            store.contents().batches = batches;
            let server = store.serve(&pki);
            let client = Client::new(config(&pki, &[server.port]));
            assert_eq!(listed(&client), ["old", "new"]);
            assert_eq!(chosen(&client), "new");
            client.provider.fetch_kek(&"new".parse().unwrap()).unwrap();
            let id = "old".parse().unwrap();
            client.provider.change_kek(&id, KekChange::Revoke(Revocation::Superseded)).unwrap();
        }
    }
}

#[test]
fn keys_of_others_are_neither_listed_nor_chosen_nor_changed() {
    let pki = Pki::new();
    let group = |id: &str, group: Option<&str>, name: Option<&str>| StoredKey {
        group: group.map(str::to_owned),
        name: name.map(str::to_owned),
        ..StoredKey::new(id, LONG_AGO + 1000)
    };
    let keys = vec![
        StoredKey::new("ours", LONG_AGO),
        group("of another host", Some("others"), Some("blkseal-x")),
        group("application", Some("database"), Some("table 1")),
        group("nameless", None, None),
        group("named", None, Some("backup")),
    ];
    let keys: Vec<_> =
        keys.into_iter().map(|key| StoredKey { id: key.id.replace(' ', "-"), ..key }).collect();
    let store = Store::new(keys.clone());
    store.contents().filters = false;
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    assert_eq!(listed(&client), ["ours"]);
    assert_eq!(chosen(&client), "ours");
    for key in &keys[1..] {
        let id = key.id.parse().unwrap();
        for change in [KekChange::Destroy, KekChange::Revoke(Revocation::Compromise)] {
            let error = client.provider.change_kek(&id, change).err().unwrap();
            assert!(matches!(error, ProviderError::KekForeign { .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains(&key.id) && error.hint().is_some(), "{text}");
            assert!(key.group.as_ref().is_none_or(|group| text.contains(group)), "{text}");
        }
    }
    assert!(store.contents().keys.iter().all(|key| key.state == 2), "none was touched");

    // Where the server tells no groups, names tell.
    store.contents().keys.iter_mut().for_each(|key| key.group = None);
    assert_eq!(
        listed(&client),
        ["of-another-host", "ours"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>()
    );
}

#[test]
fn a_server_that_tells_neither_group_nor_name_is_not_used() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("theirs", LONG_AGO)]);
    (store.contents().filters, store.contents().tells_names) = (false, false);
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    let error = wrapping_kek(&client.provider, None).err().unwrap();
    let text = format!("{error:?}");
    assert!(text.contains("MadeOther"), "{text}");
    assert!(error.hint().unwrap().contains("Object Group"), "{error}");
    let left: Vec<_> = store.contents().keys.iter().map(|key| key.state).collect();
    assert_eq!(left, [2, 5], "what was made in vain is destroyed, and nothing else");
}

#[test]
fn many_keys_are_looked_at_in_few_messages() {
    let pki = Pki::new();
    let keys = (1..=1000).map(|number| StoredKey::new(&number.to_string(), LONG_AGO + number)).collect();
    let store = Store::new(keys);
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    assert_eq!(listed(&client).len(), 1000);
    let messages = store.contents().messages;
    assert!(messages < 40, "{messages} messages");
    assert_eq!(chosen(&client), "1000");
}

#[test]
fn what_there_is_no_time_for_is_told_and_the_newest_known_is_used() {
    let pki = Pki::new();
    let keys = (1..=400).map(|number| StoredKey::new(&number.to_string(), LONG_AGO)).collect();
    let store = Store::new(keys);
    // Each key costs a message, and there is time for some only.
    (store.contents().batches, store.contents().pause) = (false, Duration::from_millis(20));
    let server = store.serve(&pki);
    let mut slow = config(&pki, &[server.port]);
    slow.limits = Limits { call: 3_000, ..LIMITS };
    let client = Client::new(slow);
    let made = client.provider.create_kek().unwrap();
    assert_eq!(chosen(&client), made.as_str());
    let unread = client.events().into_iter().find_map(|event| match event {
        KmipEvent::KeysUnread { count, .. } => Some(count),
        _ => None,
    });
    assert!(unread.is_some_and(|count| (1..400).contains(&count)), "{unread:?}");
}

#[test]
fn a_locate_that_finds_a_part_only_does_not_hide_the_key_just_made() {
    let pki = Pki::new();
    let keys = (1..=5).map(|number| StoredKey::new(&number.to_string(), LONG_AGO)).collect();
    let store = Store::new(keys);
    store.contents().located = 3;
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    let made = client.provider.create_kek().unwrap();
    assert_eq!(chosen(&client), made.as_str());
    assert_eq!(client.provider.wrapping_kek(), Some(made));
}

#[test]
fn the_newest_is_not_told_by_a_servers_clock() {
    let pki = Pki::new();
    let mut ahead = StoredKey::new("ahead", now() + 86_400);
    ahead.name = Some("blkseal-of-an-older-version".into());
    let store = Store::new(vec![ahead, StoredKey::new("old", LONG_AGO)]);
    // Behind, so that dates tell nothing of what is made now.
    store.contents().now = LONG_AGO - 86_400;
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    assert_eq!(chosen(&client), "old", "a date that has not come yet says nothing");
    let early =
        |event: &KmipEvent| matches!(event, KmipEvent::KeyFromTheFuture { id, .. } if id.as_str() == "ahead");
    assert_eq!(client.events().iter().filter(|event| early(event)).count(), 1);
    let made = client.provider.create_kek().unwrap();
    assert_eq!(chosen(&client), made.as_str());
    assert!(!client.events().iter().any(early), "it is told once");
    // Another process knows by the name that this host gave it.
    let again = Client::new(config(&pki, &[server.port]));
    assert_eq!(chosen(&again), made.as_str());
    let second = again.provider.create_kek().unwrap();
    assert_eq!(chosen(&Client::new(config(&pki, &[server.port]))), second.as_str(), "of the same second");
}

#[test]
fn a_server_that_makes_keys_active_makes_no_trouble() {
    let pki = Pki::new();
    let store = Store::new(Vec::new());
    store.contents().activates = true;
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    let made = client.provider.create_kek().unwrap();
    assert_eq!(client.provider.kek(&made).unwrap().state, KekState::Active);
    assert_eq!(store.contents().keys.len(), 1);
    assert!(!store.contents().asked.contains(&Operation::Activate));
}

#[test]
fn a_compromise_has_a_date() {
    let pki = Pki::new();
    let store = Store::new(vec![StoredKey::new("1", LONG_AGO)]);
    let server = store.serve(&pki);
    let client = Client::new(config(&pki, &[server.port]));
    let id = "1".parse().unwrap();
    let state = client.provider.change_kek(&id, KekChange::Revoke(Revocation::Compromise)).unwrap();
    assert_eq!((state, store.contents().keys[0].state), (KekState::Compromised, 4));
}

#[test]
fn a_real_server_tells_which_keys_are_whose() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let own = Client::new(config(&pki, &[server.port]));
    let made: Vec<_> = (0..40).map(|_| own.provider.create_kek().unwrap().to_string()).collect();
    let again = Client::new(config(&pki, &[server.port]));
    assert_eq!(listed(&again), made, "in the order in which they were made");
    let mut others = config(&pki, &[server.port]);
    others.group = "others".into();
    let other = Client::new(others);
    let theirs = other.provider.create_kek().unwrap();
    let error = own.provider.change_kek(&theirs, KekChange::Revoke(Revocation::Superseded)).err().unwrap();
    assert!(matches!(error, ProviderError::KekForeign { .. }), "{error}");
    assert_eq!(other.provider.kek(&theirs).unwrap().state, KekState::Active);
}
