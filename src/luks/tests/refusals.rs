use super::*;

/// Tries to make a volume, expects to be refused, and that neither file changed.
fn refused(place: &Place, options: &FormatOptions) -> LuksError {
    let content = |path: &Path| std::fs::read(path).ok();
    let before = (content(&place.backing), content(place.header_path()));
    let (dek, token) = key();
    let error = format(place, options, &dek, &token).expect_err("it should be refused");
    assert!(
        before == (content(&place.backing), content(place.header_path())),
        "{error}: changed all the same"
    );
    error
}

fn plain() -> FormatOptions {
    FormatOptions::default()
}

fn force() -> FormatOptions {
    FormatOptions { force: true, ..plain() }
}

#[test]
fn sizes_and_labels_are_checked() {
    let bench = Bench::new();
    let small = Place::attached(bench.image("small", 16 * MIB));
    let error = refused(&small, &force());
    let LuksError::TooSmall { size, minimum, .. } = error else { panic!("{error}") };
    assert_eq!((size, minimum), (16 * MIB, 16 * MIB + 4096));
    let odd = Place::attached(bench.image("odd", 20 * MIB + 512));
    assert!(matches!(refused(&odd, &force()), LuksError::PartialSector { sector_size: 4096, .. }));
    let (dek, token) = key();
    let options = FormatOptions { sector_size: 512, ..plain() };
    assert_eq!(format(&odd, &options, &dek, &token).unwrap().data_length, 4 * MIB + 512);

    let good = Place::attached(bench.image("good", 20 * MIB));
    let sector = FormatOptions { sector_size: 1024, ..plain() };
    assert!(matches!(refused(&good, &sector), LuksError::SectorSize(1024)));
    for label in [String::new(), "x".repeat(48), "two\nlines".into()] {
        let options = FormatOptions { label: Some(label), ..plain() };
        assert!(matches!(refused(&good, &options), LuksError::Label(_)));
    }
    let missing = Place::attached(bench.path("missing"));
    assert!(matches!(refused(&missing, &force()), LuksError::Missing(_)));
    assert!(!missing.backing.exists());
    let directory = Place::attached(bench.directory.path());
    assert!(matches!(refused(&directory, &force()), LuksError::WrongFileType(_)));
}

#[test]
fn a_full_file_system_is_seen_before_anything_is_written() {
    let bench = Bench::new();
    let directory = bench.path("small");
    std::fs::create_dir(&directory).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&directory).status();
    if !mounted.unwrap().success() {
        return; // No right to mount here.
    }
    let place = Place::attached(directory.join("disk"));
    std::fs::File::create(&place.backing).unwrap().set_len(20 * MIB).unwrap();
    let error = std::panic::catch_unwind(|| refused(&place, &force()));
    assert!(Command::new("umount").arg(&directory).status().unwrap().success());
    let error = error.unwrap();
    assert!(matches!(&error, LuksError::Io { action, .. } if action.starts_with("reserve space")), "{error}");
}

#[test]
fn a_path_that_libcryptsetup_cannot_take_is_refused() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = bench.directory.path().join(std::ffi::OsStr::from_bytes(b"disk-\xff"));
    std::fs::rename(bench.image("disk", 20 * MIB), &odd).unwrap();
    assert!(matches!(refused(&Place::attached(&odd), &force()), LuksError::Path(_)));
    assert!(matches!(open(&Place::attached(&odd)), Err(LuksError::Path(_))));
}

#[test]
fn what_is_on_it_is_named() {
    let bench = Bench::new();
    let path = bench.path("disk");
    let place = Place::attached(&path);
    let makers: [(&[&str], &str); 3] =
        [(&["mkfs.ext4", "-q", "-F"], "ext4"), (&["mkswap"], "swap"), (&["mkfs.xfs", "-q", "-f"], "xfs")];
    for (command, expected) in makers {
        std::fs::write(&path, vec![0; 320 * MIB as usize]).unwrap();
        let made = Command::new(command[0]).args(&command[1..]).arg(&path).stdout(Stdio::null()).status();
        assert!(made.unwrap().success(), "{command:?}");
        assert_occupied(&place, expected);
    }
    std::fs::write(&path, vec![0; 64 * MIB as usize]).unwrap();
    overwrite(&path, 446, &one_dos_partition());
    assert_occupied(&place, "dos");
}

fn assert_occupied(place: &Place, expected: &str) {
    match refused(place, &plain()) {
        LuksError::Occupied { found, .. } => assert_eq!(found, expected),
        other => panic!("{other}"),
    }
}

/// The partition entries of a master boot record, and its signature.
fn one_dos_partition() -> [u8; 66] {
    let mut entries = [0; 66];
    entries[4] = 0x83;
    entries[8..12].copy_from_slice(&2048_u32.to_le_bytes());
    entries[12..16].copy_from_slice(&4096_u32.to_le_bytes());
    entries[64..].copy_from_slice(&[0x55, 0xaa]);
    entries
}

#[test]
fn a_luks_header_is_seen_at_either_place() {
    let bench = Bench::new();
    let (header, _) = bench.volume();
    for offset in [None, Some(0), Some(16384)] {
        let place = Place::attached(bench.path("copy"));
        std::fs::copy(&header.place.backing, &place.backing).unwrap();
        if let Some(offset) = offset {
            overwrite(&place.backing, offset, &[0; 4096]);
        }
        match refused(&place, &plain()) {
            LuksError::Occupied { found, .. } => assert_eq!(found, "crypto_LUKS", "{offset:?}"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_locked_file_is_refused_even_with_force() {
    let bench = Bench::new();
    let place = Place::attached(bench.image("disk", 20 * MIB));
    let held = claim(&place.backing, 0).unwrap();
    assert!(matches!(claim(&place.backing, 0), Err(LuksError::InUse { .. })));
    let error = refused(&place, &force());
    assert!(matches!(&error, LuksError::InUse { by, .. } if by.contains("locked")), "{error}");
    let twin = held.try_clone().unwrap();
    drop(held);
    assert!(matches!(claim(&place.backing, 0), Err(LuksError::InUse { .. })), "a duplicate keeps the claim");
    drop(twin);
    claim(&place.backing, 0).unwrap();
}

#[test]
fn a_file_below_a_loop_device_is_refused_even_with_force() {
    let bench = Bench::new();
    let place = Place::attached(bench.image("disk", 20 * MIB));
    let Some(device) = LoopDevice::attach(&place.backing, &[]) else { return };
    let is_named = |place: &Place| {
        let error = refused(place, &force()).to_string();
        assert!(error.contains(&format!("{} is on it", device.path.display())), "{error}");
    };
    is_named(&place);
    let link = Place::attached(bench.path("link"));
    std::os::unix::fs::symlink(&place.backing, &link.backing).unwrap();
    is_named(&link);
    // The path that the loop device was given leads elsewhere by now.
    let renamed = Place::attached(bench.path("renamed"));
    std::fs::rename(&place.backing, &renamed.backing).unwrap();
    std::fs::write(&place.backing, "another file").unwrap();
    is_named(&renamed);
}

#[test]
fn a_block_device_in_use_is_refused_and_a_free_one_is_made_a_volume() {
    let bench = Bench::new();
    let Some(device) = LoopDevice::attach(&bench.image("disk", 20 * MIB), &[]) else { return };
    let place = Place::attached(&device.path);
    let held = claim(&device.path, 0).unwrap();
    assert!(matches!(refused(&place, &force()), LuksError::InUse { .. }));
    drop(held);
    let (dek, token) = key();
    let header = format(&place, &plain(), &dek, &token).unwrap();
    assert_eq!(header.data_length, 4 * MIB);
    // The worker's claim does not keep the header from being changed.
    let _held = claim(&device.path, libc::O_DIRECT).unwrap();
    let mut header = open(&place).unwrap();
    header.replace_token(token_for(&dek, "kek-2")).unwrap();
    assert_eq!(open(&place).unwrap().token.kek_id.as_str(), "kek-2");
}

#[test]
fn a_mounted_device_is_refused_with_its_mount_point() {
    let bench = Bench::new();
    let image = bench.image("disk", 64 * MIB);
    assert!(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap().success());
    let Some(device) = LoopDevice::attach(&image, &[]) else { return };
    let directory = bench.path("mount");
    std::fs::create_dir(&directory).unwrap();
    if !Command::new("mount").arg(&device.path).arg(&directory).status().unwrap().success() {
        return; // No right to mount here.
    }
    let (dek, token) = key();
    let error = format(&Place::attached(&device.path), &force(), &dek, &token);
    assert!(Command::new("umount").arg(&directory).status().unwrap().success());
    let error = error.expect_err("it is mounted").to_string();
    assert!(error.contains(&format!("mounted on {}", directory.display())), "{error}");
}

#[test]
fn sectors_smaller_than_the_devices_blocks_are_refused() {
    let bench = Bench::new();
    let image = bench.image("disk", 20 * MIB);
    let Some(device) = LoopDevice::attach(&image, &["--sector-size", "4096"]) else { return };
    let options = FormatOptions { sector_size: 512, ..plain() };
    let error = refused(&Place::attached(&device.path), &options);
    assert!(matches!(error, LuksError::BlockSize { block_size: 4096, .. }), "{error}");
}

#[test]
fn a_detached_header_replaces_nothing_unasked() {
    let bench = Bench::new();
    let place = Place::detached(bench.image("data", 4 * MIB), bench.image("header", 100));
    assert!(matches!(refused(&place, &plain()), LuksError::HeaderExists(_)));
    let same = Place::detached(&place.backing, &place.backing);
    assert!(matches!(refused(&same, &force()), LuksError::SameFile(_)));
    let node = Place::detached(&place.backing, "/dev/null");
    assert!(matches!(refused(&node, &force()), LuksError::WrongFileType(_)));
    let nowhere = Place::detached(&place.backing, bench.path("missing/header"));
    assert!(matches!(refused(&nowhere, &force()), LuksError::Io { .. }));
    assert!(matches!(refused(&place, &force()), LuksError::HeaderExists(_)), "force is for the backing");
}

#[test]
fn a_detached_header_replaces_a_detached_header_that_nobody_uses_and_nothing_else() {
    let bench = Bench::new();
    let replace = FormatOptions { replace_header: true, ..plain() };
    let place = Place::detached(bench.image("data", 4 * MIB), bench.path("header"));
    let with = |header: PathBuf| Place::detached(&place.backing, header);
    let is_no_header = |error: LuksError| assert!(matches!(error, LuksError::NoDetachedHeader(_)), "{error}");
    is_no_header(refused(&with(bench.image("noise", 20 * MIB)), &replace));
    is_no_header(refused(&with(bench.image("short", 100)), &replace));
    let (attached, _) = bench.volume();
    is_no_header(refused(&with(attached.place.backing), &replace));
    assert!(matches!(refused(&with("/dev/null".into()), &replace), LuksError::WrongFileType(_)));

    let (dek, token) = key();
    let first = format(&place, &replace, &dek, &token).unwrap();
    let held = claim(place.header_path(), 0).unwrap();
    assert!(matches!(refused(&place, &replace), LuksError::InUse { .. }));
    let second = format(&place, &replace, &dek, &token).err();
    assert!(matches!(second, Some(LuksError::InUse { .. })));
    drop(held);
    // Also one of cryptsetup's, and one whose first copy is damaged.
    overwrite(place.header_path(), 0, &[0; 4096]);
    let second = format(&place, &replace, &dek, &token).unwrap();
    assert_ne!(first.uuid, second.uuid);
    assert_eq!(std::fs::metadata(place.header_path()).unwrap().len(), 16 * MIB);
    std::fs::remove_file(place.header_path()).unwrap();
    let detached = format!("--header={}", place.header_path().display());
    stock_volume(&place.backing, &bench.key_file(&dek), &[&detached]);
    assert_eq!(format(&place, &replace, &dek, &token).unwrap().repair, None);
    assert_eq!(
        cryptsetup(&["luksUUID"], &[place.header_path()], b"").trim(),
        open(&place).unwrap().uuid.to_string()
    );
}

/// A file attached to a loop device, until dropped.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// None where this user or this kernel has no loop devices.
    fn attach(file: &Path, arguments: &[&str]) -> Option<Self> {
        let output =
            Command::new("losetup").args(["--find", "--show"]).args(arguments).arg(file).output().unwrap();
        let path = String::from_utf8(output.stdout).unwrap();
        output.status.success().then(|| Self { path: path.trim().into() })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}
