//! A volume of stock cryptsetup comes to blkseal and goes back, with its files.

use std::fs;
use std::path::Path;

use crate::support::shell::said;
use crate::support::{Host, run};

const BUSY: i32 = 5;

/// Mounts `device`, runs `work` on what is there, and unmounts it.
fn mounted(host: &Host, device: &Path, work: impl FnOnce(&Path)) {
    let place = host.path("mnt");
    fs::create_dir_all(&place).unwrap();
    run(&format!("mount {} {place}", device.display()));
    work(Path::new(&place));
    run(&format!("umount {place}"));
    run("udevadm settle");
}

/// The same through dm-crypt, opened by the passphrase.
fn mounted_by_cryptsetup(host: &Host, options: &str, work: impl FnOnce(&Path)) {
    run(&format!(
        "cryptsetup open --type luks2 --key-file {} {options} vmtest-adopt",
        host.path("passphrase")
    ));
    let device = Path::new("/dev/mapper/vmtest-adopt");
    mounted(host, device, work);
    run("cryptsetup close vmtest-adopt");
}

/// A device with a volume of cryptsetup's, an ext4 file system and a file.
fn stock(host: &Host, more: &str, backing: &str) {
    let key = host.path("passphrase");
    let quick = "--pbkdf pbkdf2 --pbkdf-force-iterations 1000";
    run(&format!("cryptsetup luksFormat -q --type luks2 {quick} --key-file {key} {more} {backing}"));
    run(&format!("cryptsetup open --key-file {key} {more} {backing} vmtest-adopt"));
    run("mkfs.ext4 -q /dev/mapper/vmtest-adopt");
    run("udevadm settle");
    run("cryptsetup close vmtest-adopt");
    mounted_by_cryptsetup(host, &format!("{more} {backing}"), |place| {
        fs::write(place.join("first"), "written through dm-crypt").unwrap();
    });
}

#[test]
fn a_volume_comes_from_cryptsetup_and_goes_back_with_its_files() {
    let host = Host::start();
    let key = host.path("passphrase");
    for (name, detached) in [("attached", false), ("detached", true)] {
        let image = host.image(name, 64 << 20);
        let backing = run(&format!("losetup --show -f {image}")).trim().to_owned();
        let header = host.path(&format!("{name}.luks"));
        let more = if detached { format!("--header {header}") } else { String::new() };
        if detached {
            fs::File::create(&header).unwrap().set_len(16 << 20).unwrap();
        }
        stock(&host, &more, &backing);
        let mut arguments = vec!["adopt", &backing, "--name", name, "--key-file", &key];
        if detached {
            arguments.extend(["--header", &header]);
        }

        // In use by device mapper it is refused.
        run(&format!("cryptsetup open --key-file {key} {more} {backing} vmtest-adopt"));
        let output = host.try_blkseal(&arguments);
        assert_eq!(output.status.code(), Some(BUSY), "{}", said(&output));
        run("udevadm settle");
        run("cryptsetup close vmtest-adopt");

        host.blkseal(&arguments);
        host.blkseal(&["open", name]);
        mounted(&host, host.path(&format!("dev/{name}")).as_ref(), |place| {
            assert_eq!(fs::read_to_string(place.join("first")).unwrap(), "written through dm-crypt");
            fs::write(place.join("second"), "written through blkseal").unwrap();
        });
        let output = host.try_blkseal(&["release", name]);
        assert_eq!(output.status.code(), Some(BUSY), "{}", said(&output));
        host.blkseal(&["close", name]);
        host.blkseal(&["release", name]);
        mounted_by_cryptsetup(&host, &format!("{more} {backing}"), |place| {
            assert_eq!(fs::read_to_string(place.join("first")).unwrap(), "written through dm-crypt");
            assert_eq!(fs::read_to_string(place.join("second")).unwrap(), "written through blkseal");
        });
        run(&format!("losetup -d {backing}"));
    }
    assert!(!host.blkseal(&["list"]).contains("attached"));
}
