use super::*;

#[test]
fn a_recovery_passphrase_opens_with_stock_cryptsetup() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    let path = header.place.backing.clone();
    let slot = header.recovery_add_cheaply(&dek, &secret(b"correct horse")).unwrap();
    assert_eq!(header.keyslots, [Keyslot { slot, kdf: "argon2id".into() }]);
    let test = |passphrase: &[u8]| try_cryptsetup(&["open", "--test-passphrase"], &[&path], passphrase).0;
    assert!(test(b"correct horse"));
    assert!(!test(b"wrong horse"));
    let dumped = bench.path("dumped.key");
    let key_file = format!("--volume-key-file={}", dumped.display());
    cryptsetup(&["luksDump", "-q", "--dump-volume-key", &key_file], &[&path], b"correct horse");
    assert!(std::fs::read(&dumped).unwrap() == dek.expose());
    // The token stays, and is not bound to the passphrase.
    assert_eq!(open(&header.place).unwrap().token, header.token);
}

#[test]
fn a_recovery_passphrase_costs_what_cryptsetup_would_make_it_cost() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    header.recovery_add(&dek, &secret(b"correct horse")).unwrap();
    let dump = cryptsetup(&["luksDump"], &[&header.place.backing], b"");
    assert!(dump.contains("PBKDF:      argon2id"), "{dump}");
    let memory = dump.lines().find_map(|line| line.trim().strip_prefix("Memory:")).unwrap();
    // libcryptsetup takes up to 1 GiB, less on small hosts, and never less than this for two seconds' work.
    assert!(memory.trim().parse::<u64>().unwrap() >= 32 * 1024, "{memory}");
}

#[test]
fn recovery_passphrases_are_found_and_removed_singly() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    let (one, two) = (secret(b"one"), secret(b"two"));
    let first = header.recovery_add_cheaply(&dek, &one).unwrap();
    let second = header.recovery_add_cheaply(&dek, &two).unwrap();
    assert_eq!(look(&header.place).unwrap().keyslots.len(), 2);
    assert_eq!(header.recovery_find(&two).unwrap(), second);
    assert!(matches!(header.recovery_find(&secret(b"three")), Err(LuksError::WrongPassphrase(_))));
    header.recovery_remove(first).unwrap();
    assert!(matches!(header.recovery_find(&one), Err(LuksError::WrongPassphrase(_))));
    assert!(matches!(header.recovery_remove(first), Err(LuksError::NoSuchSlot { .. })));
    let test = |text: &[u8]| try_cryptsetup(&["open", "--test-passphrase"], &[&header.place.backing], text).0;
    assert!(!test(b"one"));
    assert!(test(b"two"));
    header.recovery_remove(second).unwrap();
    assert!(header.keyslots.is_empty());
    header.verify(&dek).unwrap();
}

#[test]
fn a_passphrase_is_not_added_for_another_key() {
    let bench = Bench::new();
    let (mut header, _) = bench.volume();
    let before = std::fs::read(&header.place.backing).unwrap();
    let added = header.recovery_add_cheaply(&Dek::generate().unwrap(), &secret(b"pass"));
    assert!(matches!(added, Err(LuksError::WrongKey(_))));
    assert!(before == std::fs::read(&header.place.backing).unwrap());
}

#[test]
fn a_detached_header_takes_a_passphrase_too() {
    let bench = Bench::new();
    let (dek, token) = key();
    let place = Place::detached(bench.image("data", 4 * MIB), bench.path("header"));
    let mut header = format(&place, &FormatOptions::default(), &dek, &token).unwrap();
    header.recovery_add_cheaply(&dek, &secret(b"pass")).unwrap();
    cryptsetup(&["open", "--test-passphrase"], &[place.header_path()], b"pass");
}

#[test]
fn a_change_meant_for_one_volume_does_not_reach_another() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    let path = header.place.backing.clone();
    std::fs::remove_file(&path).unwrap();
    let (_other, _) = bench.volume();
    let before = std::fs::read(&path).unwrap();
    let changed = header.replace_token(token_for(&dek, "kek-2"));
    assert!(matches!(changed, Err(LuksError::OtherVolume(_))));
    assert!(before == std::fs::read(&path).unwrap());
}
