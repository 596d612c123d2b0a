use super::*;
use crate::luks::unlock;

/// A volume of cryptsetup's that the passphrase `stock` opens, and its key.
fn stock(bench: &Bench, more: &[&str]) -> (Place, Dek) {
    let dek = key().0;
    let path = bench.image("stock", 20 * MIB);
    stock_volume(&path, &bench.key_file(&dek), more);
    (Place::attached(path), dek)
}

fn opens(path: &Path, passphrase: &[u8]) -> bool {
    try_cryptsetup(&["open", "--test-passphrase"], &[path], passphrase).0
}

/// Tries to unlock a volume, expects to be refused, and that nothing changed.
fn refused(place: &Place, passphrase: &[u8]) -> LuksError {
    let content = |path: &Path| std::fs::read(path).ok();
    let before = (content(&place.backing), content(place.header_path()));
    let error = unlock(place, &secret(passphrase)).err().expect("it should be refused");
    assert!(
        before == (content(&place.backing), content(place.header_path())),
        "{error}: changed all the same"
    );
    error
}

#[test]
fn a_volume_of_cryptsetup_gets_a_token_for_its_own_key_and_stays_cryptsetups() {
    for sector_size in ["512", "4096"] {
        let bench = Bench::new();
        let (place, dek) = stock(&bench, &["--sector-size", sector_size]);
        let before = std::fs::read(&place.backing).unwrap();
        let unlocked = unlock(&place, &secret(b"stock")).unwrap();
        assert!(unlocked.dek().expose() == dek.expose(), "the key is not the one that cryptsetup was given");
        assert!(before == std::fs::read(&place.backing).unwrap(), "to look changes nothing");
        let token = token_for(unlocked.dek(), "kek-1");
        let header = unlocked.adopt(&token).unwrap();
        assert_eq!((&header.token, header.sector_size.to_string()), (&token, sector_size.into()));
        header.verify(&dek).unwrap();
        assert_eq!(header.keyslots, [Keyslot { slot: 0, kdf: "pbkdf2".into() }]);
        let after = std::fs::read(&place.backing).unwrap();
        assert!(before[32 << 10..] == after[32 << 10..], "keyslots and data stay");
        assert!(opens(&place.backing, b"stock") && !opens(&place.backing, b"other"));
        assert!(matches!(refused(&place, b"stock"), LuksError::Adopted(_)));
    }
}

#[test]
fn a_detached_header_is_adopted_too() {
    let bench = Bench::new();
    let dek = key().0;
    let place = Place::detached(bench.image("data", 4 * MIB), bench.path("header"));
    let header_option = format!("--header={}", place.header_path().display());
    std::fs::File::create(place.header_path()).unwrap().set_len(16 * MIB).unwrap();
    stock_volume(&place.backing, &bench.key_file(&dek), &[&header_option]);
    let data = std::fs::read(&place.backing).unwrap();
    let unlocked = unlock(&place, &secret(b"stock")).unwrap();
    let token = token_for(unlocked.dek(), "kek-1");
    let header = unlocked.adopt(&token).unwrap();
    assert_eq!((header.data_offset, header.data_length), (0, 4 * MIB));
    assert!(data == std::fs::read(&place.backing).unwrap());
    header.release().unwrap();
    assert!(opens(place.header_path(), b"stock"));
}

#[test]
fn a_volume_that_was_replaced_meanwhile_is_left_alone() {
    let bench = Bench::new();
    let (place, _) = stock(&bench, &[]);
    let unlocked = unlock(&place, &secret(b"stock")).unwrap();
    let token = token_for(unlocked.dek(), "kek-1");
    // cryptsetup does not see who has claimed a file.
    stock_volume(&place.backing, &bench.key_file(&key().0), &[]);
    let new = std::fs::read(&place.backing).unwrap();
    let error = unlocked.adopt(&token).expect_err("it is another volume");
    assert!(matches!(error, LuksError::OtherVolume(_)), "{error}");
    assert!(new == std::fs::read(&place.backing).unwrap());
}

#[test]
fn any_of_several_passphrases_will_do() {
    let bench = Bench::new();
    let (place, dek) = stock(&bench, &[]);
    let quick = ["luksAddKey", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", "--key-file"];
    std::fs::write(bench.path("first"), "stock").unwrap();
    std::fs::write(bench.path("second"), "other\n").unwrap();
    let paths = [&*bench.path("first"), &place.backing, &bench.path("second")];
    cryptsetup(&quick, &paths, b"");
    let unlocked = unlock(&place, &secret(b"other\n")).unwrap();
    assert!(unlocked.dek().expose() == dek.expose());
    // Who has opened a volume has it alone.
    assert!(matches!(refused(&place, b"stock"), LuksError::InUse { .. }));
}

#[test]
fn what_cannot_be_adopted_is_refused_and_left_alone() {
    let bench = Bench::new();
    let (place, _) = stock(&bench, &[]);
    assert!(matches!(refused(&place, b"wrong"), LuksError::WrongPassphrase(_)));
    let held = claim(&place.backing, 0).unwrap();
    assert!(matches!(refused(&place, b"stock"), LuksError::InUse { .. }));
    drop(held);
    let empty = Place::attached(bench.image("empty", 20 * MIB));
    assert!(matches!(refused(&empty, b"stock"), LuksError::NotLuks(_)));
    assert!(matches!(refused(&Place::attached(bench.path("missing")), b"stock"), LuksError::Missing(_)));
    let luks1 = bench.image("luks1", 20 * MIB);
    stock_volume(&luks1, &bench.key_file(&key().0), &["--type=luks1", "--key-size=512"]);
    assert!(matches!(refused(&Place::attached(luks1), b"stock"), LuksError::Luks1(_)));
    let mut json = key().1.to_json();
    json["version"] = 2.into();
    import_token(&place.backing, &json.to_string());
    assert!(matches!(refused(&place, b"stock"), LuksError::Token { source: TokenError::Version(_), .. }));
}

#[test]
fn a_volume_that_blkseal_could_not_serve_is_not_adopted() {
    let variants: [(&[&str], usize, &str); 3] = [
        (&["--cipher=aes-cbc-essiv:sha256", "--key-size=256"], 32, "aes-cbc-essiv:sha256"),
        (&["--cipher=aes-xts-plain64", "--key-size=256"], 32, "256 bits instead of 512"),
        (&["--sector-size=1024"], 64, "sector size is 1024"),
    ];
    for (arguments, key_length, expected) in variants {
        let bench = Bench::new();
        let place = Place::attached(bench.image("stock", 20 * MIB));
        std::fs::write(bench.path("volume.key"), vec![7; key_length]).unwrap();
        stock_volume(&place.backing, &bench.path("volume.key"), arguments);
        let error = refused(&place, b"stock").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let bench = Bench::new();
    let (place, _) = stock(&bench, &[]);
    let arguments = ["reencrypt", "-q", "--init-only", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
    cryptsetup(&arguments, &[&place.backing], b"stock");
    let error = refused(&place, b"stock").to_string();
    assert!(error.contains("re-encryption"), "{error}");
}

#[test]
fn a_released_volume_is_cryptsetups_again() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    let path = header.place.backing.clone();
    let before = std::fs::read(&path).unwrap();
    let error = header.clone().release().unwrap_err();
    assert!(matches!(error, LuksError::NoPassphrase(_)), "{error}");
    assert!(error.hint().unwrap().contains("blkseal recovery add"));
    assert!(before == std::fs::read(&path).unwrap());
    header.recovery_add_cheaply(&dek, &secret(b"rescue")).unwrap();
    let held = claim(&path, 0).unwrap();
    assert!(matches!(header.clone().release(), Err(LuksError::InUse { .. })));
    drop(held);
    let place = header.place.clone();
    header.release().unwrap();
    assert!(opens(&path, b"rescue"));
    let dump = cryptsetup(&["luksDump"], &[&path], b"");
    assert!(!dump.contains("blkseal"), "{dump}");
    assert!(matches!(open(&place), Err(LuksError::Token { source: TokenError::Missing, .. })));
    // And back.
    assert!(unlock(&place, &secret(b"rescue")).unwrap().dek().expose() == dek.expose());
}
