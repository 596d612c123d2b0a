use super::*;

#[test]
fn an_attached_volume_is_what_cryptsetup_calls_luks2() {
    for sector_size in [512, 4096] {
        let bench = Bench::new();
        let (dek, token) = key();
        let place = Place::attached(bench.image("volume", 20 * MIB));
        let options = FormatOptions {
            uuid: Some(uuid::Uuid::new_v4()),
            label: Some("backups of tuesday".into()),
            sector_size,
            ..FormatOptions::default()
        };
        let header = format(&place, &options, &dek, &token).unwrap();

        cryptsetup(&["isLuks", "--type", "luks2"], &[&place.backing], b"");
        let dump = cryptsetup(&["luksDump"], &[&place.backing], b"");
        let expected = [
            "offset: 16777216 [bytes]",
            "length: (whole device)",
            "cipher: aes-xts-plain64",
            &format!("sector: {sector_size} [bytes]"),
            "backups of tuesday",
            &options.uuid.unwrap().to_string(),
            "Flags:       \t(no flags)",
            "Keyslots:\nTokens:\n  0: blkseal",
        ];
        for line in expected {
            assert!(dump.contains(line), "{line:?} is missing in {dump}");
        }
        assert_eq!(header.uuid, options.uuid.unwrap());
        assert_eq!(header.label, options.label);
        assert_eq!(
            (header.sector_size, header.data_offset, header.data_length),
            (sector_size, 16 * MIB, 4 * MIB)
        );
        assert_eq!((&header.token, &header.keyslots, header.repair), (&token, &vec![], None));
        let export = cryptsetup(&["token", "export", "--token-id", "0"], &[&place.backing], b"");
        assert_eq!(Token::parse(&export).unwrap(), token);
    }
}

#[test]
fn the_data_area_is_left_as_it_was() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    let before = std::fs::read(bench.image("other", 20 * MIB)).unwrap();
    let after = std::fs::read(&header.place.backing).unwrap();
    assert!(before[16 * MIB as usize..] == after[16 * MIB as usize..]);
}

#[test]
fn cryptsetup_accepts_the_volume_key_and_no_other() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    let try_key = |dek: &Dek| {
        let key_file = format!("--volume-key-file={}", bench.key_file(dek).display());
        // Adding a keyslot by volume key is the one check of a bare volume key that needs no device mapper.
        let quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-size", "512"];
        let arguments = [&["luksAddKey", "-q", &key_file][..], &quick].concat();
        try_cryptsetup(&arguments, &[&header.place.backing], b"passphrase\n").0
    };
    assert!(!try_key(&Dek::generate().unwrap()));
    assert!(try_key(&dek));
}

#[test]
fn a_detached_header_leaves_the_backing_alone() {
    let bench = Bench::new();
    let (dek, token) = key();
    let place = Place::detached(bench.image("data", 4 * MIB), bench.path("data.header"));
    let before = std::fs::read(&place.backing).unwrap();
    let header = format(&place, &FormatOptions::default(), &dek, &token).unwrap();
    assert_eq!((header.data_offset, header.data_length), (0, 4 * MIB));
    assert!(before == std::fs::read(&place.backing).unwrap());
    let dump = cryptsetup(&["luksDump"], &[place.header_path()], b"");
    assert!(dump.contains("offset: 0 [bytes]"), "{dump}");
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(place.header_path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(bench.directory.path()).unwrap().count(), 2, "no temporary file is left");
}

#[test]
fn allowed_discards_are_kept_where_dm_crypt_looks() {
    let bench = Bench::new();
    let (dek, token) = key();
    let place = Place::attached(bench.image("volume", 20 * MIB));
    let options = FormatOptions { allow_discards: true, ..FormatOptions::default() };
    assert!(format(&place, &options, &dek, &token).unwrap().allow_discards);
    let dump = cryptsetup(&["luksDump"], &[&place.backing], b"");
    assert!(dump.contains("allow-discards"), "{dump}");
}

#[test]
fn force_leaves_nothing_of_what_was_there() {
    let bench = Bench::new();
    let (dek, token) = key();
    let force = FormatOptions { force: true, ..FormatOptions::default() };
    let backing = bench.image("volume", 64 * MIB);
    let mkfs = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&backing).status().unwrap();
    assert!(mkfs.success());
    let place = Place::detached(&backing, bench.path("header"));
    format(&place, &force, &dek, &token).unwrap();
    let file = std::fs::File::open(&backing).unwrap();
    assert_eq!(probe::signatures(&file, &backing).unwrap(), Vec::<String>::new());

    // An older LUKS2 header with larger metadata, whose second copy is elsewhere, does not come back.
    stock_volume(&backing, &bench.key_file(&dek), &["--luks2-metadata-size=64k"]);
    let place = Place::attached(&backing);
    let header = format(&place, &force, &dek, &token).unwrap();
    overwrite(&backing, 0, &[0; 4096]);
    let repaired = open(&place).unwrap();
    assert_eq!(repaired.uuid, header.uuid);
    assert_eq!(repaired.repair, Some(Repair { copy: HeaderCopy::Primary }));
}

#[test]
fn a_header_put_in_place_by_halves_is_none_or_whole() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    let path = &header.place.backing;
    let whole = std::fs::read(path).unwrap();
    // The writes of `place_attached` in order, cut off after each sector of the header's two copies.
    let matters =
        |cut: &usize| cut.is_multiple_of(4096) || whole[*cut..][..512].iter().any(|&byte| byte != 0);
    for cut in (0..=32 * 1024).step_by(512).filter(matters) {
        let mut torn = whole.clone();
        torn[cut..16 * MIB as usize].fill(0);
        std::fs::write(path, &torn).unwrap();
        match open(&header.place) {
            Ok(found) => {
                assert_eq!((found.uuid, found.token), (header.uuid, header.token.clone()), "at {cut}")
            }
            Err(LuksError::NotLuks(_) | LuksError::Damaged(_)) => assert!(cut < 16 * 1024, "at {cut}"),
            Err(other) => panic!("at {cut}: {other}"),
        }
    }
}

#[test]
fn making_a_volume_leaves_no_key_byte_in_ordinary_memory() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    header.recovery_add_cheaply(&dek, &secret(b"correct horse")).unwrap();
    header.verify(&dek).unwrap();
    for half in [&dek.expose()[..32], &dek.expose()[32..]] {
        let found = crate::provider::tests::scan::places_of(half);
        assert!(found.is_empty(), "the DEK is still at {found:x?}");
    }
}
