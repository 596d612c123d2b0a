//! A look at a header says what libcryptsetup says, and leaves everything as it is. The oracle is libcryptsetup.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use super::*;

/// What a look says, which is what opening says; neither changes a byte of a header that is whole.
fn seen(place: &Place) -> Header {
    let before = std::fs::read(place.header_path()).unwrap();
    let looked = look(place).unwrap();
    assert!(before == std::fs::read(place.header_path()).unwrap(), "to look changes nothing");
    assert_eq!(looked, open(place).unwrap());
    looked
}

#[test]
fn a_look_says_what_libcryptsetup_says_of_our_volumes() {
    for (sector_size, allow_discards, detached) in [(512, false, true), (4096, true, false)] {
        let bench = Bench::new();
        let (dek, token) = key();
        let image = bench.image("data", 20 * MIB);
        let place = match detached {
            true => Place::detached(image, bench.path("header")),
            false => Place::attached(image),
        };
        let label = Some("Geschäft".into());
        let options = FormatOptions { sector_size, allow_discards, label, ..FormatOptions::default() };
        format(&place, &options, &dek, &token).unwrap();
        assert_eq!(seen(&place).label, options.label);
        let mut header = open(&place).unwrap();
        header.recovery_add_cheaply(&dek, &secret(b"one")).unwrap();
        header.recovery_add_cheaply(&dek, &secret(b"two")).unwrap();
        header.recovery_remove(0).unwrap();
        assert_eq!(seen(&place).keyslots, [Keyslot { slot: 1, kdf: "argon2id".into() }]);
        header.replace_token(token_for(&dek, "kek-2")).unwrap();
        assert_eq!(seen(&place).token.kek_id.as_str(), "kek-2");
    }
}

#[test]
fn a_look_says_what_libcryptsetup_says_of_stock_volumes() {
    let variants: [&[&str]; 5] = [
        &[],
        &["--sector-size=512", "--label=stock"],
        &["--luks2-metadata-size=4m", "--luks2-keyslots-size=8m", "--offset=65536"],
        &["--uuid=3f2504e0-4f89-41d3-9a0c-0305e82c3301", "--luks2-metadata-size=64k"],
        &["--offset=40000"],
    ];
    for more in variants {
        let bench = Bench::new();
        let path = bench.image("stock", 48 * MIB);
        stock_volume(&path, &bench.key_file(&key().0), more);
        import_token(&path, &key().1.to_json().to_string());
        seen(&Place::attached(&path));
    }
}

#[test]
fn a_damaged_copy_is_told_and_left_as_it_is() {
    for (copy, offset) in [(HeaderCopy::Primary, 0), (HeaderCopy::Secondary, 16384)] {
        for damaged in [0, 4096, 200] {
            let bench = Bench::new();
            let (header, _) = bench.volume();
            overwrite(&header.place.backing, offset + damaged, &[0; 512]);
            let before = std::fs::read(&header.place.backing).unwrap();
            let looked = look(&header.place).unwrap();
            assert_eq!((looked.damaged, looked.repair), (Some(copy), None), "{damaged}");
            assert_eq!(Header { damaged: None, ..looked }, header);
            assert!(before == std::fs::read(&header.place.backing).unwrap(), "to look changes nothing");
        }
    }
}

#[test]
fn a_copy_that_was_left_behind_is_told_and_the_newer_one_counts() {
    let bench = Bench::new();
    let (mut header, dek) = bench.volume();
    let path = header.place.backing.clone();
    let old = std::fs::read(&path).unwrap();
    header.replace_token(token_for(&dek, "kek-2")).unwrap();
    overwrite(&path, 16384, &old[16384..32768]);
    let looked = look(&header.place).unwrap();
    assert_eq!((looked.damaged, &looked.token), (Some(HeaderCopy::Secondary), &header.token));
    assert_eq!(open(&header.place).unwrap().token, looked.token);
}

#[test]
fn a_look_refuses_what_opening_refuses() {
    let bench = Bench::new();
    let (header, dek) = bench.volume();
    let path = header.place.backing.clone();
    let whole = std::fs::read(&path).unwrap();
    let check = |what: &str, change: &dyn Fn(&Path)| {
        std::fs::write(&path, &whole).unwrap();
        change(&path);
        let (looked, opened) = (look(&header.place).unwrap_err(), open(&header.place).unwrap_err());
        assert_eq!(looked.to_string(), opened.to_string(), "{what}");
    };
    check("both copies damaged", &|path| [4100, 20484].iter().for_each(|&at| overwrite(path, at, b"....")));
    check("no header", &|path| overwrite(path, 0, &[0; 32768]));
    check("too small", &|path| {
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(16 * MIB).unwrap();
    });
    check("two tokens", &|path| import_token(path, &key().1.to_json().to_string()));
    check("no token", &|path| drop(cryptsetup(&["token", "remove", "--token-id=0"], &[path], b"")));
    check("re-encryption", &|path| {
        open(&header.place).unwrap().recovery_add_cheaply(&dek, &secret(b"pass")).unwrap();
        let quick = ["reencrypt", "-q", "--init-only", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"];
        cryptsetup(&quick, &[path], b"pass");
    });
    for missing in [Place::attached(bench.path("missing")), Place::detached(&path, bench.path("missing"))] {
        assert!(matches!(look(&missing), Err(LuksError::Missing(_))));
    }
}

#[test]
fn a_look_waits_for_no_lock_and_needs_to_read_only() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    std::fs::set_permissions(&header.place.backing, std::fs::Permissions::from_mode(0o444)).unwrap();
    let reader = std::fs::File::open(&header.place.backing).unwrap();
    // SAFETY: locks an open file; no memory is involved.
    assert_eq!(unsafe { libc::flock(reader.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    assert_eq!(look(&header.place).unwrap(), header);
}

#[test]
fn what_has_no_end_that_answers_is_refused_at_once() {
    let bench = Bench::new();
    let (fifo, data) = (bench.path("fifo"), bench.image("data", 20 * MIB));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for place in [Place::attached(&fifo), Place::detached(&data, &fifo), Place::attached("/dev/zero")] {
        let error = look(&place).unwrap_err();
        assert!(matches!(error, LuksError::WrongFileType(_)), "{error}");
        let error = open(&place).unwrap_err();
        assert!(matches!(error, LuksError::WrongFileType(_)), "{error}");
    }
}

#[test]
fn through_open_files_a_volume_is_what_was_opened_whatever_its_path_leads_to() {
    for detached in [false, true] {
        let bench = Bench::new();
        let (dek, token) = key();
        let image = bench.image("data", 20 * MIB);
        let place = match detached {
            true => Place::detached(&image, bench.path("header")),
            false => Place::attached(&image),
        };
        let made = format(&place, &FormatOptions::default(), &dek, &token).unwrap();
        let files = Arc::new(Files::open(&place).unwrap());
        let moved = bench.path("moved");
        std::fs::rename(place.header_path(), &moved).unwrap();
        symlink("/dev/zero", place.header_path()).unwrap();

        let mut header = open_by(&place, Access::Through(files)).unwrap();
        assert_eq!(header, made);
        header.verify(&dek).unwrap();
        header.replace_token(token_for(&dek, "kek-2")).unwrap();
        header.recovery_add_cheaply(&dek, &secret(b"rescue")).unwrap();
        assert_eq!(header.place, place, "messages name what the user named");
        let there = match detached {
            true => Place::detached(&image, &moved),
            false => Place::attached(&moved),
        };
        assert_eq!(look(&there).unwrap().token.kek_id.as_str(), "kek-2");
        cryptsetup(&["open", "--test-passphrase"], &[&moved], b"rescue");
        overwrite(&moved, 0, &[0; 32768]);
        let error = header.verify(&dek).unwrap_err().to_string();
        assert!(error.contains(place.header_path().to_str().unwrap()), "{error}");
    }
}
