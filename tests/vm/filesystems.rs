//! File systems on a volume: made, filled, unmounted, checked; and files that dm-crypt finds again.

use std::path::Path;

use crate::support::shell::command;
use crate::support::{Host, run, run_in};

/// Fills the mounted file system until it is full, and gives the checksums of all files.
fn fill(mount_point: &str) -> String {
    for n in 0.. {
        let file = format!("{mount_point}/file{n}");
        let mut copy = command(&format!("dd if=/dev/urandom of={file} bs=1M count=7 conv=fsync"));
        if !copy.output().unwrap().status.success() {
            break;
        }
        assert!(n < 1000, "the file system does not get full");
    }
    run("sync");
    checksums(mount_point)
}

fn checksums(mount_point: &str) -> String {
    run_in(
        command("sh -c")
            .arg(format!("cd {mount_point} && find . -type f -print0 | sort -z | xargs -0 sha256sum")),
    )
}

fn mounted<R>(device: &Path, mount_point: &str, user: impl FnOnce() -> R) -> R {
    run(&format!("mkdir -p {mount_point}"));
    run(&format!("mount {} {mount_point}", device.display()));
    let result = user();
    run(&format!("umount {mount_point}"));
    result
}

fn fill_and_check(make: &str, check: &str, megabytes: u64, sector: &str) {
    let host = Host::start();
    let backing = host.image("backing", megabytes << 20);
    let volume = host.create("fs", &backing, &["--sector-size", sector]);
    volume.add_recovery();
    let mount_point = host.path("mnt");
    let device = volume.open(&[]);
    run(&format!("{make} {}", device.display()));
    let written = mounted(&device, &mount_point, || fill(&mount_point));
    run(&format!("{check} {}", device.display()));
    assert!(written.lines().count() > 3, "{written}");
    volume.close();

    let device = volume.open(&[]);
    assert_eq!(mounted(&device, &mount_point, || checksums(&mount_point)), written);
    volume.close();
    volume.with_dm_crypt(|mapper| {
        run(&format!("{check} {}", mapper.display()));
        assert_eq!(mounted(mapper, &mount_point, || checksums(&mount_point)), written);
    });
}

#[test]
fn ext4_full_and_clean() {
    fill_and_check("mkfs.ext4 -q", "e2fsck -fn", 96, "4096");
}

#[test]
fn ext4_on_sectors_of_512() {
    fill_and_check("mkfs.ext4 -q -b 1024", "e2fsck -fn", 64, "512");
}

#[test]
fn xfs_full_and_clean() {
    // The smallest file system that mkfs.xfs makes has 300 MiB.
    fill_and_check("mkfs.xfs -q", "xfs_repair -n", 340, "4096");
}
