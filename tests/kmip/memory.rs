//! Where a KEK's bytes are after it came from a server.

use blkseal::provider::KeyProvider;
use ublk_targets::secret::Secret;

use crate::support::{Client, Pki, PyKmip, config};

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

#[test]
fn a_copy_in_ordinary_memory_is_found() {
    let secret = Secret::random(32).unwrap();
    let copy = secret.expose().to_vec();
    assert_eq!(scan::places_of(secret.expose()), [copy.as_ptr().addr() as u64]);
}
