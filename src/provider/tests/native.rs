use std::fs;

use proptest::prelude::*;

use super::*;
use crate::provider::native::{KdfCost, NativeProvider};

const HEAD: usize = 144;
const RECORD: usize = 72;

fn create(directory: &tempfile::TempDir) -> NativeProvider {
    let path = directory.path().join("vault.keys");
    NativeProvider::create(name("vault"), path, &secret(b"passphrase"), cheap()).unwrap()
}

fn reopened(provider: &NativeProvider) -> NativeProvider {
    NativeProvider::new(provider.name().clone(), provider.path().to_owned())
}

fn files_in(directory: &tempfile::TempDir) -> usize {
    fs::read_dir(directory.path()).unwrap().count()
}

#[test]
fn a_kek_comes_back_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let ids = [provider.create_kek().unwrap(), provider.create_kek().unwrap()];
    let again = reopened(&provider);
    again.unlock(&secret(b"passphrase")).unwrap();
    for id in &ids {
        assert!(provider.fetch_kek(id).unwrap().expose() == again.fetch_kek(id).unwrap().expose());
    }
    assert!(again.fetch_kek(&ids[0]).unwrap().expose() != again.fetch_kek(&ids[1]).unwrap().expose());
    let listed = again.list_keks().unwrap();
    assert_eq!(listed.iter().map(|info| &info.id).collect::<Vec<_>>(), ids.iter().collect::<Vec<_>>());
    assert!(listed.iter().all(|info| info.state == KekState::Active && info.created <= SystemTime::now()));
    assert_eq!(mode_of(provider.path()), 0o600);
    assert_eq!(files_in(&directory), 1);
}

#[test]
fn a_locked_provider_gives_no_key_and_lists_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let id = provider.create_kek().unwrap();
    assert_eq!(provider.availability(), Availability::Ready);
    provider.lock();
    assert_eq!(provider.availability(), Availability::Locked);
    assert!(matches!(provider.fetch_kek(&id), Err(ProviderError::Locked(_))));
    assert!(matches!(provider.create_kek(), Err(ProviderError::Locked(_))));
    assert_eq!(provider.list_keks().unwrap().len(), 1);
    provider.unlock(&secret(b"passphrase")).unwrap();
    provider.fetch_kek(&id).unwrap();
}

#[test]
fn wrong_secrets_and_unknown_keys_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    for wrong in [&b"Passphrase"[..], b"passphrase\n", b"p"] {
        assert!(matches!(reopened(&provider).unlock(&secret(wrong)), Err(ProviderError::WrongSecret(_))));
    }
    let unknown = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    assert!(matches!(provider.fetch_kek(&unknown), Err(ProviderError::UnknownKek { .. })));
    fs::remove_file(provider.path()).unwrap();
    assert_eq!(provider.availability(), Availability::Unavailable);
    assert!(matches!(provider.fetch_kek(&unknown), Err(ProviderError::File { .. })));
}

#[test]
fn a_file_is_not_made_over_another() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let before = fs::read(provider.path()).unwrap();
    let path = provider.path().to_owned();
    let error = NativeProvider::create(name("other"), path, &secret(b"x"), cheap()).err().unwrap();
    assert!(matches!(error, ProviderError::File { action: "create", .. }), "{error}");
    assert_eq!(fs::read(provider.path()).unwrap(), before);
    assert_eq!(files_in(&directory), 1);
}

#[test]
fn the_secret_can_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let id = provider.create_kek().unwrap();
    let kek = provider.fetch_kek(&id).unwrap();
    let (old, new) = (secret(b"passphrase"), secret(&[0xff; 4096]));
    let wrong = provider.change_secret(&new, &old);
    assert!(matches!(wrong, Err(ProviderError::WrongSecret(_))));
    provider.change_secret(&old, &new).unwrap();
    let again = reopened(&provider);
    assert!(matches!(again.unlock(&old), Err(ProviderError::WrongSecret(_))));
    again.unlock(&new).unwrap();
    assert!(again.fetch_kek(&id).unwrap().expose() == kek.expose());
    assert!(provider.fetch_kek(&id).unwrap().expose() == kek.expose());
}

#[test]
fn any_changed_byte_is_seen_before_the_passphrase_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    provider.create_kek().unwrap();
    let good = fs::read(provider.path()).unwrap();
    assert_eq!(good.len(), HEAD + RECORD + 72);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(provider.path(), &bad).unwrap();
        if (HEAD + RECORD..HEAD + RECORD + 40).contains(&at) {
            continue; // The wrapped digest: see the next test.
        }
        assert!(matches!(reopened(&provider).list_keks(), Err(ProviderError::Damaged { .. })), "byte {at}");
    }
    for cut in 0..good.len() {
        fs::write(provider.path(), &good[..cut]).unwrap();
        assert!(
            matches!(reopened(&provider).list_keks(), Err(ProviderError::Damaged { .. })),
            "cut at {cut}"
        );
    }
}

#[test]
fn what_was_changed_with_its_checksum_is_seen_with_the_passphrase() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let ids = [provider.create_kek().unwrap(), provider.create_kek().unwrap()];
    let good = fs::read(provider.path()).unwrap();
    let record = |index: usize| HEAD + index * RECORD..HEAD + (index + 1) * RECORD;
    type Forgery = (&'static str, fn(&mut Vec<u8>));
    let forgeries: [Forgery; 5] = [
        ("two keys swapped under their ids", |file| {
            for at in 0..40 {
                file.swap(HEAD + 32 + at, HEAD + RECORD + 32 + at);
            }
        }),
        ("a key taken out", |file| {
            file.drain(HEAD..HEAD + RECORD);
            file[136] = 1;
        }),
        ("a state changed", |file| file[HEAD + 24] = 3),
        ("a date changed", |file| file[HEAD + 16] ^= 1),
        ("the seal changed", |file| {
            let at = file.len() - 72;
            file[at] ^= 1;
        }),
    ];
    assert_ne!(good[record(0)], good[record(1)]);
    for (what, forge) in forgeries {
        let mut bad = good.clone();
        forge(&mut bad);
        rehash(&mut bad);
        fs::write(provider.path(), &bad).unwrap();
        let again = reopened(&provider);
        assert!(again.list_keks().is_ok(), "{what}: the checksum should match");
        assert!(matches!(again.unlock(&secret(b"passphrase")), Err(ProviderError::Damaged { .. })), "{what}");
        // A provider that is unlocked already does not fall for it either.
        assert!(matches!(provider.fetch_kek(&ids[1]), Err(ProviderError::Damaged { .. })), "{what}");
        assert!(matches!(provider.create_kek(), Err(ProviderError::Damaged { .. })), "{what}");
        assert_eq!(fs::read(provider.path()).unwrap(), bad, "{what}");
    }
}

#[test]
fn other_versions_and_costs_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let good = fs::read(provider.path()).unwrap();
    for (at, value, expected) in [
        (16, 3_u32, "version 3"),
        (16, 0, "version 0"),
        (20, u32::MAX, "parameters"),
        (24, 0, "parameters"),
        (28, 65, "parameters"),
        (136, 1000, "1000 keys"),
    ] {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        rehash(&mut bad);
        fs::write(provider.path(), &bad).unwrap();
        let error = reopened(&provider).unlock(&secret(b"passphrase")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Made by blkseal 0.1.0 before version 2 of the format: an active, a deactivated and a compromised KEK.
const VERSION_1: &[u8] = include_bytes!("native_v1.keys");
const VERSION_1_KEKS: [(&str, KekState, &str); 3] = [
    ("5ec22727-1780-4ea7-87d0-71b330dfa071", KekState::Active, "c0aecb5183ba5754"),
    ("2dc2906d-8d6a-4b6f-a179-3006b29e7211", KekState::Deactivated, "cf7ae528fb508108"),
    ("274d4628-12c4-4e5d-bf2c-51c40b9719e8", KekState::Compromised, "615662da5f77d92e"),
];

#[test]
fn a_file_of_version_1_is_read_and_becomes_one_of_version_2() {
    use sha2::{Digest, Sha256};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("old.keys");
    fs::write(&path, VERSION_1).unwrap();
    let provider = NativeProvider::new(name("old"), path.clone());
    provider.unlock(&secret(b"passphrase")).unwrap();
    let digest = |id: &KekId| {
        let digest = Sha256::digest(provider.fetch_kek(id).unwrap().expose());
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let check = || {
        for (kek, (id, state, expected)) in provider.list_keks().unwrap().iter().zip(VERSION_1_KEKS) {
            assert_eq!((kek.id.as_str(), kek.state, digest(&kek.id).as_str()), (id, state, expected));
        }
    };
    check();
    assert_eq!(fs::read(&path).unwrap(), VERSION_1, "reading changes nothing");
    provider.create_inactive_kek().unwrap();
    check();
    let changed = fs::read(&path).unwrap();
    assert_eq!((VERSION_1[16], changed[16], changed.len()), (1, 2, VERSION_1.len() + RECORD));

    // A state that version 1 did not have is damage in one.
    let mut bad = VERSION_1.to_vec();
    bad[HEAD + 24] = 1;
    rehash(&mut bad);
    fs::write(&path, &bad).unwrap();
    let error = provider.list_keks().unwrap_err().to_string();
    assert!(error.contains("key state 1 is unknown"), "{error}");
}

#[test]
fn a_kek_goes_through_its_life() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let id = provider.create_inactive_kek().unwrap();
    let change = |change| provider.change_kek(&id, change);
    let state = || provider.kek(&id).unwrap().state;
    let unusable = |expected| match provider.fetch_kek(&id) {
        Err(ProviderError::KekUnusable { state, .. }) => assert_eq!(state, expected),
        other => panic!("{:?}", other.err()),
    };
    unusable(KekState::PreActive);
    assert_eq!(provider.wrapping_kek(), None);
    assert_eq!(change(KekChange::Activate).unwrap(), KekState::Active);
    assert_eq!(provider.wrapping_kek().as_ref(), Some(&id));
    let kek = provider.fetch_kek(&id).unwrap();
    let refused = change(KekChange::Destroy).unwrap_err();
    assert!(matches!(refused, ProviderError::KekChange { state: KekState::Active, .. }), "{refused}");
    assert_eq!(change(KekChange::Revoke(Revocation::Superseded)).unwrap(), KekState::Deactivated);
    assert!(provider.fetch_kek(&id).unwrap().expose() == kek.expose(), "it still unwraps");
    assert_eq!(provider.wrapping_kek(), None);

    let wrapped = |file: &[u8]| file[HEAD + 32..HEAD + RECORD].to_vec();
    let before = wrapped(&fs::read(provider.path()).unwrap());
    assert_eq!(change(KekChange::Destroy).unwrap(), KekState::Destroyed);
    unusable(KekState::Destroyed);
    let after = fs::read(provider.path()).unwrap();
    assert!(!after.windows(before.len()).any(|window| window == before), "its bytes are gone from the file");
    assert_eq!(wrapped(&after), [0; 40]);
    assert!(change(KekChange::Activate).is_err());
    assert_eq!(change(KekChange::Revoke(Revocation::Compromise)).unwrap(), KekState::DestroyedCompromised);

    let again = reopened(&provider);
    assert_eq!(again.list_keks().unwrap()[0].state, state(), "and all that after a restart");
    let locked = again.change_kek(&id, KekChange::Destroy);
    assert!(matches!(locked, Err(ProviderError::Locked(_))));
}

#[test]
fn a_destroyed_kek_with_bytes_or_another_without_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    provider.create_kek().unwrap();
    let good = fs::read(provider.path()).unwrap();
    let forgeries: [fn(&mut Vec<u8>); 2] =
        [|file| file[HEAD + 24] = 5, |file| file[HEAD + 32..HEAD + RECORD].fill(0)];
    for forge in forgeries {
        let mut bad = good.clone();
        forge(&mut bad);
        rehash(&mut bad);
        fs::write(provider.path(), &bad).unwrap();
        let error = provider.list_keks().unwrap_err().to_string();
        assert!(error.contains("belie"), "{error}");
    }
}

#[test]
fn neither_keys_nor_passphrase_are_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let provider = create(&directory);
    let kek = provider.fetch_kek(&provider.create_kek().unwrap()).unwrap();
    let file = fs::read(provider.path()).unwrap();
    assert!(!file.windows(16).any(|window| window == &kek.expose()[..16]));
    assert!(!file.windows(10).any(|window| window == b"passphrase"));
}

#[test]
fn the_default_cost_is_what_the_rfc_recommends() {
    // RFC 9106, section 4, second recommended option.
    assert_eq!(KdfCost::DEFAULT.parameters(), [65536, 3, 4]);
}

/// Gives a forged file the checksum that anyone can compute.
fn rehash(file: &mut [u8]) {
    use sha2::{Digest, Sha256};
    let end = file.len();
    let digest = Sha256::digest(&file[..end - 72]);
    file[end - 32..].copy_from_slice(&digest);
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(changes in prop::collection::vec((0..HEAD + 2 * RECORD, any::<u8>()), 1..8)) {
        let directory = tempfile::tempdir().unwrap();
        let provider = create(&directory);
        provider.create_kek().unwrap();
        provider.create_kek().unwrap();
        let mut file = fs::read(provider.path()).unwrap();
        let good = file.clone();
        changes.iter().for_each(|&(at, value)| file[at] = value);
        rehash(&mut file);
        fs::write(provider.path(), &file).unwrap();
        // The cost may have become one that takes minutes, so that only an unlocked provider is asked.
        prop_assert_eq!(provider.create_kek().is_ok(), file == good);
    }
}
