use super::*;

fn open_error(place: &Place) -> LuksError {
    open(place).expect_err("it opens")
}

#[test]
fn one_damaged_copy_is_repaired_and_said() {
    for (copy, offset) in [(HeaderCopy::Primary, 0), (HeaderCopy::Secondary, 16384)] {
        for damaged in [0, 4096, 200] {
            let bench = Bench::new();
            let (header, _) = bench.volume();
            let whole = std::fs::read(&header.place.backing).unwrap();
            overwrite(&header.place.backing, offset + damaged, &[0; 512]);
            let opened = open(&header.place).unwrap();
            assert_eq!(opened.repair, Some(Repair { copy }), "{damaged}");
            assert_eq!(Header { repair: None, ..opened }, header);
            assert_eq!(open(&header.place).unwrap().repair, None);
            let after = std::fs::read(&header.place.backing).unwrap();
            // The salt and sequence number of a rewritten copy may differ, the JSON may not.
            let json = |image: &[u8], copy: usize| image[copy + 4096..copy + 16384].to_vec();
            assert!(json(&after, offset as usize) == json(&whole, offset as usize));
        }
    }
}

#[test]
fn two_damaged_copies_are_refused_and_left_alone() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    let path = &header.place.backing;
    for offset in [4100, 16384 + 4100] {
        overwrite(path, offset, b"........");
    }
    let before = std::fs::read(path).unwrap();
    let error = open_error(&header.place);
    assert!(matches!(error, LuksError::Damaged(_)), "{error}");
    assert!(error.hint().unwrap().contains("luksHeaderRestore"));
    assert!(before == std::fs::read(path).unwrap());
    overwrite(path, 0, &[0; 32768]);
    assert!(matches!(open_error(&header.place), LuksError::NotLuks(_)));
}

#[test]
fn a_restored_backup_opens_again() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    let backup = format!("--header-backup-file={}", bench.path("backup").display());
    cryptsetup(&["luksHeaderBackup", &backup], &[&header.place.backing], b"");
    overwrite(&header.place.backing, 0, &[0; 32768]);
    cryptsetup(&["luksHeaderRestore", "-q", &backup], &[&header.place.backing], b"");
    let restored = open(&header.place).unwrap();
    assert_eq!(restored, header);
    restored.verify(&dek).unwrap();
}

#[test]
fn a_copy_overwritten_by_a_file_system_is_not_repaired_behind_ones_back() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    let path = &header.place.backing;
    // XFS has its superblock at the very start.
    let mut superblock = [0; 512];
    let other = bench.image("xfs", 320 * MIB);
    assert!(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&other).status().unwrap().success());
    use std::os::unix::fs::FileExt;
    std::fs::File::open(&other).unwrap().read_exact_at(&mut superblock, 0).unwrap();
    overwrite(path, 0, &superblock);
    let before = std::fs::read(path).unwrap();
    let error = open_error(&header.place);
    assert!(matches!(error, LuksError::NotRepaired { copy: HeaderCopy::Primary, .. }), "{error}");
    assert!(before == std::fs::read(path).unwrap());
}

#[test]
fn a_volume_that_cryptsetup_made_opens_with_a_token() {
    let bench = Bench::new();
    let (dek, token) = key();
    let path = bench.image("stock", 20 * MIB);
    stock_volume(&path, &bench.key_file(&dek), &["--sector-size=4096"]);
    let place = Place::attached(&path);
    let error = open_error(&place);
    assert!(matches!(error, LuksError::Token { source: TokenError::Missing, .. }), "{error}");
    import_token(&path, &token.to_json().to_string());
    let header = open(&place).unwrap();
    assert_eq!((header.sector_size, header.token.clone()), (4096, token));
    assert_eq!(header.keyslots, [Keyslot { slot: 0, kdf: "pbkdf2".into() }]);
    header.verify(&dek).unwrap();
    let other = header.verify(&Dek::generate().unwrap());
    assert!(matches!(other, Err(LuksError::WrongKey(_))));
}

#[test]
fn volumes_that_blkseal_cannot_serve_are_named() {
    let variants: [(&[&str], usize, &str); 3] = [
        (&["--cipher=aes-cbc-essiv:sha256", "--key-size=256"], 32, "aes-cbc-essiv:sha256"),
        (&["--cipher=aes-xts-plain64", "--key-size=256"], 32, "256 bits instead of 512"),
        (&["--sector-size=1024"], 64, "sector size is 1024"),
    ];
    for (arguments, key_length, expected) in variants {
        let bench = Bench::new();
        let path = bench.image("stock", 20 * MIB);
        let key_file = bench.path("volume.key");
        std::fs::write(&key_file, vec![7; key_length]).unwrap();
        stock_volume(&path, &key_file, arguments);
        import_token(&path, &key().1.to_json().to_string());
        let before = std::fs::read(&path).unwrap();
        let error = open_error(&Place::attached(&path)).to_string();
        assert!(error.contains(expected), "{error}");
        assert!(before == std::fs::read(&path).unwrap());
    }
}

#[test]
fn a_reencryption_under_way_is_refused() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    header.recovery_add_cheaply(&dek, &secret(b"pass")).unwrap();
    let quick = ["--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
    let arguments = [&["reencrypt", "-q", "--init-only"][..], &quick].concat();
    cryptsetup(&arguments, &[&header.place.backing], b"pass");
    let error = open_error(&header.place).to_string();
    assert!(error.contains("re-encryption"), "{error}");
}

#[test]
fn luks1_and_no_luks_are_told_apart() {
    let bench = Bench::new();
    let path = bench.image("other", 20 * MIB);
    assert!(matches!(open_error(&Place::attached(&path)), LuksError::NotLuks(_)));
    let key_file = bench.key_file(&key().0);
    stock_volume(&path, &key_file, &["--type=luks1", "--key-size=512"]);
    assert!(matches!(open_error(&Place::attached(&path)), LuksError::Luks1(_)));
    let missing = Place::attached(bench.path("missing"));
    assert!(matches!(open_error(&missing), LuksError::Missing(_)));
}

#[test]
fn a_backing_that_shrank_is_refused() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    let file = std::fs::OpenOptions::new().write(true).open(&header.place.backing).unwrap();
    file.set_len(20 * MIB - 512).unwrap();
    assert!(matches!(open_error(&header.place), LuksError::PartialSector { .. }));
    file.set_len(16 * MIB).unwrap();
    assert!(matches!(open_error(&header.place), LuksError::TooSmall { .. }));
}

#[test]
fn a_detached_header_taken_for_a_volume_is_refused() {
    let bench = Bench::new();
    let (dek, token) = key();
    let place = Place::detached(bench.image("data", 4 * MIB), bench.path("header"));
    format(&place, &FormatOptions::default(), &dek, &token).unwrap();
    let error = open_error(&Place::attached(place.header_path()));
    assert!(matches!(error, LuksError::Unsupported { .. }), "{error}");
    assert_eq!(open(&place).unwrap().data_length, 4 * MIB);
}

#[test]
fn bad_tokens_are_named() {
    let good = key().1.to_json();
    let with = |field: &str, value: serde_json::Value| {
        let mut json = good.clone();
        json[field] = value;
        json.to_string()
    };
    let cases = [
        (with("version", 2.into()), "format version 2"),
        (with("wrapped_dek", "AAAA".into()), "3 bytes, expected 72"),
        (with("wrapped_dek", "not base64!".into()), "not base64"),
        (with("kek_id", "".into()), "not a KEK id"),
    ];
    for (json, expected) in cases {
        let bench = Bench::new();
        let path = bench.image("stock", 20 * MIB);
        stock_volume(&path, &bench.key_file(&key().0), &[]);
        import_token(&path, &json);
        match open_error(&Place::attached(&path)) {
            LuksError::Token { source, .. } => assert!(source.to_string().contains(expected), "{source}"),
            other => panic!("{json}: {other}"),
        }
    }
    let bench = Bench::new();
    let (header, _) = bench.volume();
    import_token(&header.place.backing, &good.to_string());
    let error = open_error(&header.place);
    assert!(matches!(error, LuksError::Token { source: TokenError::Several(2), .. }), "{error}");
}
