//! Where a KEK's bytes are after it came from a server.

use std::time::{Duration, Instant};

use blkseal::provider::KeyProvider;
use blkseal::provider::kmip::check;
use ublk_targets::secret::Secret;

use crate::support::{Behaviour, Client, FakeServer, Pki, PyKmip, config};

#[path = "../../src/provider/tests/scan.rs"]
mod scan;

/// Fails without the wiping allocator, for then it is in what TLS has freed.
#[test]
fn a_fetched_kek_is_in_secret_pages_only() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let client = Client::new(config(&pki, &[server.port]));
    let provider = &client.provider;
    let id = provider.create_kek().unwrap();
    let kek = provider.fetch_kek(&id).unwrap();
    let (first, second) = kek.expose().split_at(16);
    assert!(scan::places_of(first).is_empty(), "the first half is in ordinary memory");
    assert!(scan::places_of(second).is_empty(), "the second half is in ordinary memory");
}

/// The same over TLS 1.3, by a server in this process: what it holds of the key is gone once its connections are.
#[test]
fn a_kek_fetched_over_tls_1_3_is_in_secret_pages_only() {
    let pki = Pki::new();
    let server = PyKmip::start(&pki, "keys");
    let fake = FakeServer::start(&pki, &pki.leaf_of("server"), Behaviour::Tamper(server.port, |_| ()));
    let config = config(&pki, &[fake.port]);
    assert_eq!(check(&config).unwrap().remove(0).outcome.unwrap().tls, "TLS 1.3");
    let client = Client::new(config);
    let id = client.provider.create_kek().unwrap();
    let kek = client.provider.fetch_kek(&id).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    for half in kek.expose().chunks(16) {
        while !scan::places_of(half).is_empty() {
            assert!(Instant::now() < end, "a half is in ordinary memory");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn a_copy_in_ordinary_memory_is_found() {
    let secret = Secret::random(32).unwrap();
    let copy = secret.expose().to_vec();
    // Another test may be looking, too, and then has read the copy into memory of its own.
    assert!(scan::places_of(secret.expose()).contains(&(copy.as_ptr().addr() as u64)));
}
