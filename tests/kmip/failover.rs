//! Servers that fail, each in its own way, and the one that then answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blkseal::provider::kmip::KmipEvent;
use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::{Availability, KekId, KeyProvider, ProviderError};

use crate::support::message::{ILLEGAL, address, asks_for, refusal, replace};
use crate::support::{Behaviour, Client, FakeServer, Leaf, Pki, PyKmip, bounded, config, free_port};

fn about_another_key(answer: &mut [u8]) {
    replace(answer, b"\x42\x00\x94\x07\0\0\0\x011", b"\x42\x00\x94\x07\0\0\0\x017");
}

fn of_128_bits(answer: &mut [u8]) {
    replace(answer, b"\x42\x00\x2a\x02\0\0\0\x04\0\0\x01\0", b"\x42\x00\x2a\x02\0\0\0\x04\0\0\0\x80");
}

/// Key material of 31 bytes, the last having become padding.
fn with_short_material(answer: &mut [u8]) {
    let header = b"\x42\x00\x43\x08\0\0\0\x20";
    if let Some(at) = answer.windows(8).position(|window| window == header) {
        answer[at + 7] = 0x1f;
        answer[at + 8 + 31] = 0;
    }
}

fn never_activated(answer: &mut [u8]) {
    replace(answer, b"\x42\x00\x0b\x05\0\0\0\x04\0\0\0\x02", b"\x42\x00\x0b\x05\0\0\0\x04\0\0\0\x09");
}

/// What each fails with, in words that its message has to hold.
fn failures(pki: &Pki, good: u16) -> Vec<(&'static str, Option<FakeServer>, u16, &'static str)> {
    let leaf = Leaf { certificate: pki.certificate("server"), key: pki.key("server") };
    let expired = pki.server("expired", &["127.0.0.1"], 2001);
    let misnamed = pki.server("misnamed", &["192.0.2.1", "kms.example"], 2099);
    let other_pki = Pki::new();
    let foreign = other_pki.server("foreign", &["127.0.0.1"], 2099);
    let tamper = |change| Behaviour::Tamper(good, change);
    let mut garbage = b"\x42\x00\x7b\x01\0\0\0\x10".to_vec();
    garbage.extend([0xff; 16]);
    let cases: Vec<(&'static str, &Leaf, Behaviour, &'static str)> = vec![
        ("resets", &leaf, Behaviour::Reset, "reset by peer"),
        ("is no TLS server", &leaf, Behaviour::Plain(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "TLS failed"),
        ("closes at once", &leaf, Behaviour::Plain(b""), "the connection broke"),
        ("says nothing after the handshake", &leaf, Behaviour::SilentAfterHandshake, "no answer within"),
        ("answers slowly", &leaf, Behaviour::Slow(good, Duration::from_millis(100)), "no answer within"),
        ("shows an expired certificate", &expired, tamper(|_| ()), "certificate has expired"),
        (
            "shows a certificate for another name",
            &misnamed,
            tamper(|_| ()),
            "certificate is for another name",
        ),
        (
            "shows a certificate of another authority",
            &foreign,
            tamper(|_| ()),
            "not signed by a trusted authority",
        ),
        ("answers garbage", &leaf, Behaviour::Answer(garbage), "unknown type"),
        (
            "announces 4 GiB",
            &leaf,
            Behaviour::Answer(b"\x42\x00\x7b\x01\xff\xff\xff\xf8".to_vec()),
            "a message of",
        ),
        ("answers for another key", &leaf, tamper(about_another_key), "about another key"),
        ("gives a key of 128 bits", &leaf, tamper(of_128_bits), "not an AES key of 256 bits"),
        ("gives a key of 31 bytes", &leaf, tamper(with_short_material), "not an AES key of 256 bits"),
        ("gives a key in no known state", &leaf, tamper(never_activated), "state is missing or unknown"),
    ];
    let mut servers: Vec<_> = cases
        .into_iter()
        .map(|(what, leaf, behaviour, words)| {
            let fake = FakeServer::start(pki, leaf, behaviour);
            let port = fake.port;
            (what, Some(fake), port, words)
        })
        .collect();
    servers.push(("is not there", None, free_port(), "cannot connect"));
    servers
}

#[test]
fn whatever_the_first_server_does_the_second_answers() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let id = Client::new(config(&pki, &[good.port])).provider.create_kek().unwrap();
    assert_eq!(id.as_str(), "1", "what the fakes change is in the answers");
    for (what, fake, port, words) in failures(&pki, good.port) {
        let client = Client::new(config(&pki, &[port, good.port]));
        let (kek, time) = bounded(what, || client.provider.fetch_kek(&id));
        kek.unwrap_or_else(|error| panic!("{what}: {error}"));
        println!("the first server {what}: the second after {} ms", time.as_millis());
        let events = client.events();
        let failed = matches!(&events[0], KmipEvent::ServerFailed { server, why }
            if *server == address(port) && why.contains(words) && why.contains(&port.to_string()));
        assert!(failed, "{what}: {events:?}");
        assert_eq!(events[1], KmipEvent::KeyFetched { id: id.clone(), server: address(good.port) });

        // Alone it is an error that names it, and no key.
        let alone = Client::new(config(&pki, &[port]));
        let (error, time) = bounded(what, || alone.provider.fetch_kek(&id).err().unwrap());
        println!("alone it {what}: given up after {} ms", time.as_millis());
        let text = error.to_string();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{what}: {text}");
        assert!(text.contains(words) && text.contains(&port.to_string()), "{what}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert_eq!(alone.provider.availability(), Availability::Unavailable);
        drop(fake);
    }
}

#[test]
fn a_server_that_hangs_is_passed_over_and_preferred_again_later() {
    let pki = Pki::new();
    let (mut first, second) = (PyKmip::start(&pki, "keys"), PyKmip::start(&pki, "keys"));
    let client = Client::new(config(&pki, &[first.port, second.port]));
    let id = client.provider.create_kek().unwrap();
    let fetch = |what: &str| {
        client.provider.lock();
        let (kek, time) = bounded(what, || client.provider.fetch_kek(&id));
        kek.unwrap();
        println!("{what}: {} ms", time.as_millis());
        let fetched = |event: &KmipEvent| match event {
            KmipEvent::KeyFetched { server, .. } => Some(server.port()),
            _ => None,
        };
        let events = client.events();
        println!("{events:?}");
        let now_using = events.iter().find_map(|event| match event {
            KmipEvent::NowUsing(server) => Some(server.port()),
            _ => None,
        });
        (events.iter().find_map(fetched).unwrap(), now_using)
    };
    assert_eq!(fetch("both are well"), (first.port, None));
    first.hang();
    assert_eq!(fetch("the first hangs"), (second.port, Some(second.port)));
    assert_eq!(fetch("the first is known to hang"), (second.port, None), "it is left alone");
    first.go_on();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fetch("the first is well again"), (first.port, Some(first.port)));
    first.stop();
    assert_eq!(fetch("the first is stopped"), (second.port, Some(second.port)));
    first.restart();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fetch("the first is back"), (first.port, Some(first.port)));
}

#[test]
fn a_fetched_key_outlives_every_server_until_it_is_locked_or_too_old() {
    let pki = Pki::new();
    let (mut first, mut second) = (PyKmip::start(&pki, "keys"), PyKmip::start(&pki, "keys"));
    let mut config = config(&pki, &[first.port, second.port]);
    let client = Client::new(config.clone());
    config.max_age = Some(1);
    let forgetful = Client::new(config);
    let id = client.provider.create_kek().unwrap();
    let kek = client.provider.fetch_kek(&id).unwrap();
    forgetful.provider.fetch_kek(&id).unwrap();
    first.stop();
    second.stop();
    std::thread::sleep(Duration::from_millis(1100));

    assert!(client.provider.holds_kek(&id));
    assert!(client.provider.fetch_kek(&id).unwrap().expose() == kek.expose());
    assert!(!forgetful.provider.holds_kek(&id));
    let down = |client: &Client, id: &KekId| {
        let (fetched, time) = bounded("all servers are down", || client.provider.fetch_kek(id));
        println!("all servers are down: given up after {} ms", time.as_millis());
        let error = fetched.err().unwrap();
        assert!(matches!(error, ProviderError::Unreachable { .. }), "{error}");
        assert_eq!(client.provider.availability(), Availability::Unavailable);
        let text = error.to_string();
        assert!([first.port, second.port].iter().all(|port| text.contains(&port.to_string())), "{text}");
    };
    forgetful.events();
    down(&forgetful, &id);
    assert!(forgetful.events().contains(&KmipEvent::KeyDropped(id.clone())));
    client.provider.lock();
    assert!(!client.provider.holds_kek(&id));
    assert!(client.events().contains(&KmipEvent::KeyDropped(id.clone())));
    down(&client, &id);

    second.restart();
    assert!(client.provider.fetch_kek(&id).unwrap().expose() == kek.expose(), "back again");
    assert_eq!(client.provider.availability(), Availability::Ready);
}

#[test]
fn a_server_that_fails_once_is_asked_again_in_the_same_call() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let requests = AtomicU32::new(0);
    let fake = FakeServer::before(&pki, good.port, move |request, ask| {
        // The first one ends with its connection.
        (requests.fetch_add(1, Ordering::Relaxed) > 0).then(|| ask(request))
    });
    let client = Client::new(config(&pki, &[fake.port]));
    client.provider.create_kek().unwrap();
    let events = client.events();
    assert!(
        matches!(
            &events[..],
            [KmipEvent::ServerFailed { .. }, KmipEvent::NowUsing(_), KmipEvent::KeyMade { .. }]
        ),
        "its failure and its return: {events:?}"
    );
}

#[test]
fn a_refusal_is_told_only_where_another_server_is_asked_for_it() {
    let pki = Pki::new();
    let (first, second) = (PyKmip::start(&pki, "keys"), PyKmip::start(&pki, "keys"));
    let failed = |ports: &[u16]| {
        let client = Client::new(config(&pki, ports));
        let error = client.provider.kek(&"unknown".parse().unwrap()).err().unwrap();
        assert!(matches!(error, ProviderError::KekGone { .. }), "{error}");
        let server = |event| match event {
            KmipEvent::ServerFailed { server, .. } => server.port(),
            other => panic!("{other:?}"),
        };
        client.events().into_iter().map(server).collect::<Vec<_>>()
    };
    assert!(failed(&[first.port]).is_empty());
    assert_eq!(failed(&[first.port, second.port]), [first.port]);
}

#[test]
fn a_key_that_does_not_become_active_is_destroyed_or_named() {
    let pki = Pki::new();
    let good = PyKmip::start(&pki, "keys");
    let owner = Client::new(config(&pki, &[good.port]));
    let inactive = FakeServer::before(&pki, good.port, |request, ask| {
        Some(match asks_for(request, Operation::Activate) {
            true => refusal(Operation::Activate, ILLEGAL),
            false => ask(request),
        })
    });
    let error = Client::new(config(&pki, &[inactive.port])).provider.create_kek().err().unwrap();
    assert!(matches!(error, ProviderError::Refused { .. }) && error.hint().is_some(), "{error:?}");
    assert!(owner.provider.list_keks().unwrap().is_empty(), "none is left");

    let stubborn = FakeServer::before(&pki, good.port, |request, ask| {
        let refused =
            [Operation::Activate, Operation::Destroy].into_iter().find(|&what| asks_for(request, what));
        Some(refused.map_or_else(|| ask(request), |what| refusal(what, ILLEGAL)))
    });
    let error = Client::new(config(&pki, &[stubborn.port])).provider.create_kek().err().unwrap();
    let left = owner.provider.list_keks().unwrap();
    let [left] = &left[..] else { panic!("{left:?}") };
    let ProviderError::Refused { source, .. } = &error else { panic!("{error:?}") };
    let line = source.line();
    assert!(line.contains(&format!("KEK {} was made there", left.id)), "{line}");
    assert!(line.contains("Activate failed") && line.contains(&stubborn.port.to_string()), "{line}");
    assert!(error.hint().unwrap().contains("destroy it"), "{error:?}");
}
