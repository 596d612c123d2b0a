//! In use means in use: whoever holds a volume's device, or a backing, is named, and nothing happens to what they hold.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::disk::Aligned;
use crate::support::shell::said;
use crate::support::{Disk, Host, Volume, eventually, run, run_in};

const BUSY: i32 = 5;

/// The command fails as busy, with one line that has all of `named`, and a hint.
fn refused(host: &Host, arguments: &[&str], named: &[&str]) {
    let output = host.try_blkseal(arguments);
    let all = said(&output);
    assert_eq!(output.status.code(), Some(BUSY), "{arguments:?}: {all}");
    assert_eq!(all.lines().count(), 2, "{arguments:?}: one line and a hint: {all}");
    for name in named {
        assert!(all.contains(name), "{arguments:?} does not name {name}: {all}");
    }
}

/// `close` is refused and names `holder`; the device goes on.
fn stays_open(host: &Host, volume: &Volume<'_>, holder: &str) {
    refused(host, &["close", &volume.name], &[&volume.name, holder]);
    assert_eq!(volume.status()["state"], "live");
    Disk::open(&volume.link(), libc::O_DIRECT).read(0, 4096).unwrap();
}

/// A process that ends with this value.
struct Process(Child);

impl Process {
    fn with(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// One that has `file` open and does nothing.
    fn that_has(file: File) -> Self {
        Self::with(Command::new("sleep").arg("10000").stdin(Stdio::from(file)))
    }

    /// As a refusal names it.
    fn named(&self) -> String {
        format!("process {} (", self.0.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A partition table with one partition from 1 MiB on, 8 MiB long.
pub fn partition(device: &Path) {
    let mut table = [0; 512];
    let entry = [0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 64, 0, 0];
    table[446..462].copy_from_slice(&entry);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = OpenOptions::new().write(true).open(device).unwrap();
    disk.write_all_at(&[&table[..], &[0; 3584]].concat(), 0).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    // Busy while udev looks.
    eventually("partitions are read anew", || {
        Command::new("blockdev").arg("--rereadpt").arg(device).output().unwrap().status.success()
    });
}

#[test]
fn a_loop_device_on_the_device() {
    let host = Host::start();
    let volume = host.create("looped", &host.image("backing", 48 << 20), &[]);
    let device = run(&format!("losetup --show -f {}", volume.open(&[]).display())).trim().to_owned();
    run(&format!("mkfs.ext4 -q {device}"));
    run("udevadm settle");
    stays_open(&host, &volume, &device);

    let mount_point = host.path("mnt");
    run(&format!("mkdir {mount_point}"));
    run(&format!("mount {device} {mount_point}"));
    run(&format!("cp -r /usr/lib/udev {mount_point}/"));
    stays_open(&host, &volume, &device);
    run(&format!("sync -f {mount_point}"));
    run(&format!("diff -r /usr/lib/udev {mount_point}/udev"));
    run(&format!("umount {mount_point}"));
    run(&format!("losetup -d {device}"));
    volume.close();
}

#[test]
fn partitions_of_the_device() {
    let host = Host::start();
    let volume = host.create("parts", &host.image("backing", 48 << 20), &[]);
    partition(&volume.open(&["--host"]));
    let node = format!("/dev/{}p1", volume.kernel_name());
    eventually("the partition has a node", || Path::new(&node).exists());
    let process = Process::that_has(File::open(&node).unwrap());
    stays_open(&host, &volume, &process.named());
    drop(process);

    let device = run(&format!("losetup --show -f {node}")).trim().to_owned();
    stays_open(&host, &volume, &device);
    run(&format!("losetup -d {device}"));

    run(&format!("mkfs.ext4 -q {node}"));
    let mount_point = host.path("a mount");
    fs::create_dir(&mount_point).unwrap();
    assert!(Command::new("mount").args([&node, &mount_point]).status().unwrap().success());
    stays_open(&host, &volume, &mount_point);
    assert!(Command::new("umount").arg(&mount_point).status().unwrap().success());
    volume.close();
}

#[test]
fn a_mount_in_another_namespace() {
    let host = Host::start();
    let volume = host.create("aside", &host.image("backing", 48 << 20), &[]);
    let path = volume.open(&[]);
    run(&format!("mkfs.ext4 -q {}", path.display()));
    let mount_point = host.path("mnt");
    run(&format!("mkdir {mount_point}"));
    let script =
        format!("mount {} {mount_point} && touch {mount_point}/there && exec sleep 10000", path.display());
    let process = Process::with(Command::new("unshare").args(["-m", "sh", "-c", &script]));
    let seen = format!("/proc/{}/root{mount_point}/there", process.0.id());
    eventually("it is mounted", || Path::new(&seen).exists());
    assert!(!Path::new(&mount_point).join("there").exists(), "the mount is not in this namespace");
    stays_open(&host, &volume, &mount_point);
    drop(process);
    volume.close();
}

#[test]
fn processes_device_mapper_and_swap() {
    let host = Host::start();
    let volume = host.create("held", &host.image("backing", 48 << 20), &[]);
    let path = volume.open(&[]);
    for writes in [false, true] {
        let file = OpenOptions::new().read(true).write(writes).open(&path).unwrap();
        stays_open(&host, &volume, &Process::that_has(file).named());
    }
    let table = format!("0 2048 linear {} 0", path.display());
    run_in(Command::new("dmsetup").args(["create", "in-use-test", "--table", &table]));
    stays_open(&host, &volume, "in-use-test");
    run("udevadm settle");
    run("dmsetup remove in-use-test");

    run(&format!("busybox mkswap {}", path.display()));
    run(&format!("busybox swapon {}", path.display()));
    stays_open(&host, &volume, "swap");
    run(&format!("busybox swapoff {}", path.display()));
    volume.close();
}

/// Whether the driver itself sees who has a device open: since Linux 7.0.
fn driver_sees_users() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    release.split('.').next().unwrap().parse::<u32>().unwrap() >= 7
}

/// Where the driver decides, no moment is left between the look and the stop.
#[test]
fn who_opens_the_device_as_it_is_closed_keeps_it_or_does_not_get_it() {
    if !driver_sees_users() {
        return;
    }
    let host = Host::start();
    let volume = host.create("raced", &host.image("backing", 48 << 20), &[]);
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let opened = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(volume.link());
                if let Ok(device) = opened {
                    let mut buffer = Aligned::new(4096);
                    device
                        .read_exact_at(buffer.bytes_mut(), 0)
                        .unwrap_or_else(|error| panic!("closed under its user: {error}"));
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        for _ in 0..10 {
            volume.open(&[]);
            eventually("it is closed", || host.try_blkseal(&["close", "raced"]).status.success());
        }
        ended.store(true, Ordering::Relaxed);
    });
}

/// Writes an attribute of configfs or sysfs.
fn set(path: &str, value: &str) {
    fs::write(path, value).unwrap_or_else(|error| panic!("{value} to {path}: {error}"));
}

#[test]
fn targets_of_the_kernel() {
    let host = Host::start();
    run("modprobe -a nvmet target_core_mod target_core_file target_core_iblock");
    let volume = host.create("exported", &host.image("backing", 48 << 20), &[]);
    let path = volume.open(&[]);
    let path = path.to_str().unwrap();

    let subsystem = "/sys/kernel/config/nvmet/subsystems/blkseal-test";
    let namespace = format!("{subsystem}/namespaces/1");
    fs::create_dir(subsystem).unwrap();
    fs::create_dir(&namespace).unwrap();
    set(&format!("{namespace}/device_path"), path);
    set(&format!("{namespace}/enable"), "1");
    stays_open(&host, &volume, "NVMe target blkseal-test");
    set(&format!("{namespace}/enable"), "0");
    fs::remove_dir(&namespace).unwrap();
    fs::remove_dir(subsystem).unwrap();

    for (adapter, option) in [("fileio_1", "fd_dev_name"), ("iblock_2", "udev_path")] {
        let adapter = format!("/sys/kernel/config/target/core/{adapter}");
        let store = format!("{adapter}/blkseal-test");
        fs::create_dir(&adapter).unwrap();
        fs::create_dir(&store).unwrap();
        if option == "udev_path" {
            set(&format!("{store}/udev_path"), path);
        }
        set(&format!("{store}/control"), &format!("{option}={path},fd_dev_size=1048576"));
        set(&format!("{store}/enable"), "1");
        stays_open(&host, &volume, "SCSI target blkseal-test");
        fs::remove_dir(&store).unwrap();
        fs::remove_dir(&adapter).unwrap();
    }
    volume.close();
}

/// What writes to a backing without a claim keeps it from being made a volume, adopted and released.
#[test]
fn backings_that_somebody_writes_to() {
    let host = Host::start();
    let image = host.image("image", 48 << 20);
    let disk = run(&format!("losetup --show -f {}", host.image("below", 48 << 20))).trim().to_owned();
    for backing in [&image, &disk] {
        let name = if *backing == image { "on-image" } else { "on-disk" };
        let process = Process::that_has(OpenOptions::new().write(true).open(backing).unwrap());
        let create = ["create", backing, "--name", name, "--force", "--yes"];
        refused(&host, &create, &[backing, &process.named()]);
        drop(process);
        let volume = host.create(name, backing, &[]);
        volume.add_recovery();
        let process = Process::that_has(OpenOptions::new().write(true).open(backing).unwrap());
        refused(&host, &["release", name], &[backing, &process.named()]);
        drop(process);
        host.blkseal(&["release", name]);
        let process = Process::that_has(OpenOptions::new().write(true).open(backing).unwrap());
        let passphrase = host.path("passphrase");
        run(&format!("chmod 600 {passphrase}"));
        let adopt = ["adopt", backing, "--name", name, "--key-file", &passphrase];
        refused(&host, &adopt, &[backing, &process.named()]);
        drop(process);
        host.blkseal(&adopt);
        host.volume(name, backing).open(&[]);
        host.volume(name, backing).close();
    }
    run(&format!("losetup -d {disk}"));
}

/// The path that a loop device was given may lead elsewhere by now.
#[test]
fn a_loop_device_on_an_image_that_was_renamed() {
    let host = Host::start();
    let image = host.image("image", 48 << 20);
    let device = run(&format!("losetup --show -f {image}")).trim().to_owned();
    let renamed = host.path("renamed");
    fs::rename(&image, &renamed).unwrap();
    fs::write(&image, "another file").unwrap();
    refused(&host, &["create", &renamed, "--name", "new", "--force", "--yes"], &[&renamed, &device]);
    run(&format!("losetup -d {device}"));
    host.create("new", &renamed, &[]);
}
