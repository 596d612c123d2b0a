//! Looks for key bytes where none may be.

use super::scan::places_of;
use super::*;
use crate::provider::native::NativeProvider;

#[test]
fn a_copy_in_ordinary_memory_is_found() {
    let secret = Secret::random(32).unwrap();
    let copy = secret.expose().to_vec();
    // Another test may be looking, too, and then has read the copy into memory of its own.
    assert!(places_of(secret.expose()).contains(&(copy.as_ptr().addr() as u64)));
}

#[test]
fn keys_and_passphrases_stay_in_secret_pages() {
    let directory = tempfile::tempdir().unwrap();
    let passphrase = Secret::random(48).unwrap();
    let path = directory.path().join("vault.keys");
    let provider = NativeProvider::create(name("vault"), path.clone(), &passphrase, cheap()).unwrap();
    let id = provider.create_kek().unwrap();
    let again = NativeProvider::new(name("vault"), path);
    again.unlock(&passphrase).unwrap();
    let kek = again.fetch_kek(&id).unwrap();
    let dek = ublk_targets::secret::Dek::generate().unwrap();
    let wrapped = crate::provider::wrap::wrap(&kek, &dek).unwrap();
    let unwrapped = crate::provider::wrap::unwrap(&kek, &wrapped).unwrap();
    assert!(unwrapped.expose() == dek.expose());
    drop((provider, again, unwrapped));
    for (what, needle) in [
        ("passphrase", &passphrase.expose()[..16]),
        ("KEK", &kek.expose()[..16]),
        ("KEK", &kek.expose()[16..]),
        ("DEK", &dek.expose()[..16]),
        ("DEK", &dek.expose()[48..]),
    ] {
        assert!(places_of(needle).is_empty(), "the {what} is in ordinary memory");
    }
}
