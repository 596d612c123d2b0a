//! udev and a volume's device: it has its name there, and what a guest writes on it is none of the host's business.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::support::{Host, eventually, run};

/// Whose file system by-uuid links would name.
const UUID: &str = "6b1c51e5-5d09-4b0a-8c77-58b1b2f3a9d4";

/// A host whose daemon has its files and links where the rule expects them, and whose udev looks into ublk devices as that of
/// systemd 257 and later does.
fn host() -> Host {
    let mut host = Host::start();
    host.end_daemon("TERM");
    host.dev_dir = "/dev/blkseal".into();
    let _ = fs::remove_file("/run/blkseal");
    symlink(host.path("run"), "/run/blkseal").unwrap();
    host.start_daemon();
    host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);

    fs::create_dir_all("/run/udev/rules.d").unwrap();
    for rule in ["60-block.rules", "60-persistent-storage.rules"] {
        let text = fs::read_to_string(Path::new("/usr/lib/udev/rules.d").join(rule)).unwrap();
        let newer = if text.contains("ublk") { text } else { text.replace("\"loop*|", "\"ublkb*|loop*|") };
        assert!(newer.contains("ublk"), "{rule} is unlike any that is known");
        fs::write(Path::new("/run/udev/rules.d").join(rule), newer).unwrap();
    }
    run("udevadm control --reload");
    host
}

/// What udev knows of a block device.
fn known_of(kernel_name: &str) -> String {
    run("udevadm settle");
    run(&format!("udevadm info --query=all --name=/dev/{kernel_name}"))
}

fn by_uuid() -> PathBuf {
    Path::new("/dev/disk/by-uuid").join(UUID)
}

#[test]
fn a_volume_has_its_name_and_its_content_is_a_guests() {
    let host = host();
    let volume = host.create("guest", &host.image("backing", 48 << 20), &[]);
    let path = volume.open(&[]);
    let name = volume.kernel_name();
    let known = known_of(&name);
    assert!(known.contains("S: blkseal/guest\n"), "a link of udev's: {known}");
    assert!(known.contains(":systemd:"), "systemd has a unit for it: {known}");
    assert_eq!(fs::canonicalize("/dev/blkseal/guest").unwrap(), Path::new("/dev").join(&name));

    run(&format!("mkfs.ext4 -q -U {UUID} {}", path.display()));
    run(&format!("udevadm trigger --settle /sys/class/block/{name}"));
    let known = known_of(&name);
    assert!(!known.contains("ID_FS_"), "nobody looked into it: {known}");
    assert!(!by_uuid().exists(), "a guest gave the host a name");
    assert!(known.contains("S: blkseal/guest\n"), "{known}");
    volume.close();
    run("udevadm settle");
    assert!(!Path::new("/dev/blkseal/guest").is_symlink());
    assert_eq!(fs::read_dir(host.path("run/udev")).unwrap().count(), 0, "no other device is taken for it");
}

#[test]
fn a_volume_of_the_host_is_looked_into() {
    let host = host();
    let volume = host.create("host", &host.image("backing", 48 << 20), &[]);
    let path = volume.open(&["--host"]);
    run(&format!("mkfs.ext4 -q -U {UUID} {}", path.display()));
    eventually("the file system has its name", || by_uuid().exists());
    assert_eq!(fs::canonicalize(by_uuid()).unwrap(), Path::new("/dev").join(volume.kernel_name()));
    volume.close();
    run("udevadm settle");
    assert!(!by_uuid().is_symlink());

    // A worker that takes over changes nothing of that.
    volume.open(&["--host"]);
    let pid = volume.worker_pid();
    run(&format!("kill -9 {pid}"));
    eventually("a new worker", || volume.status()["state"] == "live" && volume.worker_pid() != pid);
    run(&format!("udevadm trigger --settle /sys/class/block/{}", volume.kernel_name()));
    let known = known_of(&volume.kernel_name());
    assert!(known.contains("S: blkseal/host\n") && known.contains("ID_FS_TYPE=ext4"), "{known}");
    volume.close();
}

#[test]
fn partitions_are_found_for_the_host_only() {
    let host = host();
    let volume = host.create("parts", &host.image("backing", 48 << 20), &[]);
    super::in_use::partition(&volume.open(&["--host"]));
    volume.close();
    run("udevadm settle");
    for (options, found) in [(&[][..], false), (&["--host"], true)] {
        volume.open(options);
        let name = volume.kernel_name();
        known_of(&name);
        let partition = Path::new("/sys/block").join(&name).join(format!("{name}p1"));
        // The driver may look aside.
        if found {
            eventually("a partition", || partition.exists());
        }
        assert_eq!(partition.exists(), found, "{options:?}");
        volume.close();
        run("udevadm settle");
    }
}
