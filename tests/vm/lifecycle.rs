//! Volumes come and go, workers and daemons die, and nothing is lost or left behind.

use std::fs;
use std::process::Command;

use crate::support::{Disk, Host, Pattern, eventually, run, shares_queues};

/// What must not grow: descriptors and secrets of the daemon, processes, devices.
#[derive(Debug, PartialEq)]
struct Footprint {
    daemon_descriptors: usize,
    /// Mappings of secret memory. How much is locked in all says less: the allocator takes 64 MiB more for a thread when it likes.
    daemon_secrets: usize,
    workers: usize,
    devices: usize,
    links: usize,
}

fn footprint(host: &Host) -> Footprint {
    let entries = |path: &str| fs::read_dir(path).map_or(0, Iterator::count);
    let workers = Command::new("pgrep").args(["-fc", "blkseal worker"]).output().unwrap();
    let maps = fs::read_to_string(format!("/proc/{}/maps", host.daemon_pid())).unwrap();
    Footprint {
        daemon_secrets: maps.lines().filter(|line| line.contains("secretmem")).count(),
        daemon_descriptors: entries(&format!("/proc/{}/fd", host.daemon_pid())),
        workers: String::from_utf8(workers.stdout).unwrap().trim().parse().unwrap(),
        devices: entries("/sys/class/ublk-char"),
        links: entries(&host.path("dev")),
    }
}

#[test]
fn opening_and_closing_fifty_times_leaks_nothing() {
    let host = Host::start();
    let volume = host.create("often", &host.image("backing", 32 << 20), &[]);
    let cycle = || {
        volume.open(&[]);
        volume.close();
    };
    // The first rounds may fill caches of the allocator and of libraries.
    (0..3).for_each(|_| cycle());
    eventually("no worker is left", || footprint(&host).workers == 0);
    let before = footprint(&host);
    assert!(before.daemon_secrets > 0, "the daemon holds a KEK");
    (0..50).for_each(|_| cycle());
    eventually("the same as before", || footprint(&host) == before);
}

#[test]
fn two_volumes_at_once_keep_to_themselves() {
    let host = Host::start();
    let volumes: Vec<_> = ["one", "two"]
        .map(|name| host.create(name, &host.image(&format!("{name}.img"), 40 << 20), &[]))
        .into_iter()
        .collect();
    let disks: Vec<_> = volumes.iter().map(|volume| Disk::open(&volume.open(&[]), 0)).collect();
    let data: Vec<_> = (0..2).map(|n| Pattern::new(n).bytes(8 << 20)).collect();
    std::thread::scope(|scope| {
        for (disk, data) in disks.iter().zip(&data) {
            scope.spawn(|| {
                for (index, chunk) in data.chunks(256 << 10).enumerate() {
                    disk.write((index * (256 << 10)) as u64, chunk).unwrap();
                }
            });
        }
    });
    for (disk, data) in disks.iter().zip(&data) {
        assert!(disk.read(0, 8 << 20).unwrap() == *data);
    }
    let stored = |name: &str| fs::read(host.path(&format!("{name}.img"))).unwrap();
    drop(disks);
    volumes.iter().for_each(|volume| volume.close());
    // The same plaintext at the same place is another ciphertext on another volume, for each has its own DEK.
    for volume in &volumes {
        Disk::open(&volume.open(&[]), 0).write(0, &data[0][..4096]).unwrap();
        volume.close();
    }
    let first_sector = |name: &str| stored(name)[16 << 20..(16 << 20) + 4096].to_vec();
    assert_ne!(first_sector("one"), first_sector("two"));
}

#[test]
fn equal_blocks_are_stored_differently() {
    let host = Host::start();
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("equal-blocks", &backing, &[]);
    Disk::open(&volume.open(&[]), 0).write(0, &vec![0x5a; 1 << 20]).unwrap();
    volume.close();
    let stored = fs::read(&backing).unwrap();
    let data = &stored[16 << 20..17 << 20];
    let distinct: std::collections::HashSet<_> = data.chunks(16).collect();
    assert_eq!(distinct.len(), data.len() / 16, "no block of 16 bytes comes twice");
}

#[test]
fn a_killed_worker_comes_back_under_running_io() {
    let host = Host::start();
    let volume = host.create("survivor", &host.image("backing", 96 << 20), &[]);
    let path = volume.open(&["--queues", "1", "--threads", "2"]);
    let (node, worker) = (volume.kernel_name(), volume.worker_pid());
    let mut fio = Command::new("fio")
        .args(["--name=kill", "--rw=randwrite", "--bs=4k", "--size=64m", "--direct=1", "--iodepth=16"])
        .args(["--ioengine=libaio", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"])
        .arg(format!("--filename={}", path.display()))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    for _ in 0..2 {
        let pid = volume.worker_pid();
        eventually("some I/O", || volume.status()["device"]["counters"]["writes"].as_u64() > Some(100));
        run(&format!("kill -9 {pid}"));
        eventually("a new worker", || {
            let device = volume.status()["device"].clone();
            device["pid"].as_u64().is_some_and(|new| new != u64::from(pid)) && device["counters"].is_object()
        });
    }
    assert!(fio.wait().unwrap().success(), "fio saw an error or wrong data");
    assert_ne!(volume.worker_pid(), worker);
    assert_eq!(volume.kernel_name(), node, "the device kept its node");
    assert_eq!(volume.status()["device"]["threads"], if shares_queues() { 2 } else { 1 });
    volume.close();
}

#[test]
fn a_volume_outlives_its_daemon_and_is_adopted() {
    for signal in ["TERM", "KILL"] {
        let mut host = Host::start();
        let backing = host.image("backing", 32 << 20);
        host.create("orphan", &backing, &[]).open(&[]);
        let link = host.dir.path().join("dev/orphan");
        let data = Pattern::new(9).bytes(65536);
        let disk = Disk::open(&link, 0);
        let worker = host.json(&["status", "orphan"])["device"]["pid"].clone();
        host.end_daemon(signal);
        disk.write(0, &data).unwrap();
        host.start_daemon();
        disk.write(65536, &data).unwrap();
        drop(disk);
        assert_eq!(
            host.json(&["status", "orphan"])["device"]["pid"],
            worker,
            "the same worker, after {signal}"
        );
        run("udevadm settle");
        host.blkseal(&["close", "orphan"]);
        host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
        host.blkseal(&["open", "orphan"]);
        let disk = Disk::open(&link, 0);
        assert!(disk.read(0, 65536).unwrap() == data && disk.read(65536, 65536).unwrap() == data);
    }
}
