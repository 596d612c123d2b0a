//! What is said to servers, and which versions of the protocol it is said in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use blkseal::provider::KeyProvider;
use blkseal::provider::kmip::messages::Operation;
use blkseal::provider::kmip::{KmipConfig, check};

use crate::support::message::{
    self, INVALID_MESSAGE, NOT_SUPPORTED, asks_for, contains, is_version, number, refusal,
};
use crate::support::{Client, FakeServer, Pki, PyKmip, config};

type Requests = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server before the one at `port` that keeps what it is asked, and has an answer of its own to Discover Versions, if
/// there is one.
fn recorder(pki: &Pki, port: u16, discovered: Option<Vec<u8>>) -> (FakeServer, Requests) {
    let requests = Requests::default();
    let kept = Arc::clone(&requests);
    let fake = FakeServer::before(pki, port, move |request, ask| {
        kept.lock().unwrap().push(request.to_vec());
        let own = discovered.clone().filter(|_| asks_for(request, Operation::DiscoverVersions));
        Some(own.unwrap_or_else(|| ask(request)))
    });
    (fake, requests)
}

#[test]
fn the_best_version_that_both_have_is_spoken() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let cases = [
        (None, 4),
        (Some(message::versions(&[(1, 1)])), 1),
        (Some(message::versions(&[(2, 1), (2, 0), (1, 2), (1, 1)])), 2),
        // As servers of KMIP 1.0 answer, which have it not.
        (Some(refusal(Operation::DiscoverVersions, NOT_SUPPORTED)), 1),
    ];
    for (discovered, minor) in cases {
        let (fake, requests) = recorder(&pki, server.port, discovered);
        let client = Client::new(config(&pki, &[fake.port]));
        let id = client.provider.create_kek().unwrap();
        client.provider.fetch_kek(&id).unwrap();
        let requests = requests.lock().unwrap();
        let (first, others): (Vec<_>, Vec<_>) =
            requests.iter().partition(|request| asks_for(request, Operation::DiscoverVersions));
        assert!(first.iter().all(|request| is_version(request, 1)), "asked in the first version that has it");
        assert!(others.len() >= 4 && others.iter().all(|request| is_version(request, minor)), "1.{minor}");
    }
}

#[test]
fn a_server_without_a_version_that_blkseal_speaks_is_told_so() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    for offered in [&[(2, 0), (2, 1)][..], &[]] {
        let (fake, requests) = recorder(&pki, server.port, Some(message::versions(offered)));
        let config = config(&pki, &[fake.port]);
        let error = Client::new(config.clone()).provider.create_kek().err().unwrap().to_string();
        assert!(error.contains("it speaks no KMIP version from 1.1 to 1.4"), "{error}");
        let report = check(&config).unwrap().remove(0).outcome.err().unwrap();
        assert!(report.fault.hint().unwrap().contains("enable KMIP 1.4"));
        let requests = requests.lock().unwrap();
        assert!(requests.iter().all(|request| asks_for(request, Operation::DiscoverVersions)));
    }
    // Others do not take a message of KMIP 1.1 at all.
    let refusal = refusal(Operation::DiscoverVersions, INVALID_MESSAGE);
    let (fake, _) = recorder(&pki, server.port, Some(refusal));
    let error = Client::new(config(&pki, &[fake.port])).provider.create_kek().err().unwrap();
    assert!(error.hint().unwrap().contains("enable KMIP 1.4"), "{error}");
}

#[test]
fn a_kek_is_made_as_a_named_aes_256_key_of_the_group() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let (fake, requests) = recorder(&pki, server.port, None);
    let mut config = config(&pki, &[fake.port]);
    config.group = "some group".into();
    Client::new(config).provider.create_kek().unwrap();
    let requests = requests.lock().unwrap();
    let create = requests.iter().find(|request| asks_for(request, Operation::Create)).unwrap();
    let length = [&number([0x00, 0x0b], 2, 0)[..8], &[0, 0, 1, 0]].concat();
    for (name, value) in [
        ("Cryptographic Algorithm", &number([0x00, 0x0b], 5, 3)[..]),
        ("Cryptographic Length", &length),
        ("Cryptographic Usage Mask", &number([0x00, 0x0b], 2, 0x04 | 0x08)),
        ("Name", b"\x42\x00\x0b\x01\0\0\0\x48\x42\x00\x55\x07\0\0\0\x2cblkseal-"),
        ("Object Group", b"\x42\x00\x0b\x07\0\0\0\x0asome group"),
    ] {
        let padding = vec![0; name.len().next_multiple_of(8) - name.len()];
        let attribute =
            [b"\x42\x00\x0a\x07\0\0\0", &[name.len() as u8][..], name.as_bytes(), &padding, value].concat();
        assert!(contains(create, &attribute), "{name}");
    }
    assert!(contains(create, &number([0x00, 0x57], 5, 2)), "a symmetric key");
}

#[test]
fn a_user_and_password_go_along_with_every_request() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let (fake, requests) = recorder(&pki, server.port, None);
    let password = pki.path("password");
    fs::write(&password, "hunter2\nsecond line\n").unwrap();
    fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).unwrap();
    let without = config(&pki, &[fake.port]);
    let with = KmipConfig { user: Some("host".into()), password_file: Some(password), ..without.clone() };
    // Type: user name and password; then the two.
    let credential = [
        &number([0x00, 0x24], 5, 1)[..],
        b"\0\0\0\0\x42\x00\x25\x01\0\0\0\x20",
        b"\x42\x00\x99\x07\0\0\0\x04host\0\0\0\0",
        b"\x42\x00\xa1\x07\0\0\0\x07hunter2\0",
    ]
    .concat();
    for (config, expected) in [(with, true), (without, false)] {
        requests.lock().unwrap().clear();
        Client::new(config).provider.create_kek().unwrap();
        let requests = requests.lock().unwrap();
        assert!(requests.len() >= 3);
        assert!(requests.iter().all(|request| contains(request, &credential) == expected));
        assert!(!requests.iter().any(|request| contains(request, b"second line")));
    }
}
