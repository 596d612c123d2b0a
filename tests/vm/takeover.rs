//! Numbers of devices that are given out again, take-overs that are cut short, and daemons that end at a bad moment.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use ublk_targets::device::{Driver, Kernel};

use crate::support::shell::said;
use crate::support::{Disk, Host, Pattern, eventually, run};

/// Process ids of all workers, youngest last.
fn workers() -> Vec<u32> {
    let found = Command::new("pgrep").args(["-f", "blkseal worker"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

fn devices() -> usize {
    fs::read_dir("/sys/class/ublk-char").map_or(0, Iterator::count)
}

/// Kills a process, which may have ended before.
fn kill(pid: u32) {
    Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn a_close_beside_an_open_takes_nobodys_device() {
    let host = Host::start();
    for name in ["busy", "one", "two"] {
        host.create(name, &host.image(&format!("{name}.img"), 32 << 20), &[]);
    }
    host.blkseal(&["open", "busy"]);
    let data = Pattern::new(3).bytes(64 << 10);
    Disk::open(&host.dir.path().join("dev/busy"), 0).write(0, &data).unwrap();
    host.blkseal(&["open", "two"]);
    for round in 0..40 {
        let (closed, opened) = if round % 2 == 0 { ("two", "one") } else { ("one", "two") };
        run("udevadm settle");
        std::thread::scope(|scope| {
            scope.spawn(|| host.blkseal(&["close", closed]));
            scope.spawn(|| host.blkseal(&["open", opened]));
        });
        let status = host.json(&["status", opened]);
        assert_eq!(status["state"], "live", "round {round}: {}", host.log());
        Disk::open(&host.dir.path().join("dev").join(opened), 0).read(0, 4096).unwrap();
        assert_eq!(devices(), 2, "round {round}");
    }
    assert!(!host.log().contains("stopped by somebody else"), "{}", host.log());
    assert!(Disk::open(&host.dir.path().join("dev/busy"), 0).read(0, 64 << 10).unwrap() == data);
}

#[test]
fn a_take_over_that_was_cut_short_is_taken_over_again() {
    let host = Host::start();
    let volume = host.create("cut", &host.image("backing", 32 << 20), &[]);
    let disk = Disk::open(&volume.open(&["--queues", "2", "--depth", "32"]), 0);
    let data = Pattern::new(4).bytes(64 << 10);
    for delay in (0..160).step_by(8) {
        let first = volume.worker_pid();
        kill(first);
        let successor = || workers().into_iter().find(|pid| *pid != first);
        eventually("a successor", || successor().is_some());
        std::thread::sleep(Duration::from_millis(delay));
        successor().into_iter().for_each(kill);
        eventually("it is live again", || {
            let status = volume.status();
            // After some early deaths in a row the daemon waits.
            if status["problem"].as_str().is_some_and(|problem| problem.contains("in a row")) {
                host.try_blkseal(&["open", "cut"]);
            }
            status["state"] == "live" && status["device"]["counters"].is_object()
        });
        disk.write(delay * 4096, &data).unwrap();
        assert!(disk.read(delay * 4096, 64 << 10).unwrap() == data, "after {delay} ms");
    }
    drop(disk);
    volume.close();
}

#[test]
fn a_device_that_somebody_else_stops_is_closed_and_gone() {
    let host = Host::start();
    let volume = host.create("stopped", &host.image("backing", 32 << 20), &[]);
    volume.open(&[]);
    let before = devices();
    // What `ublk del` does first.
    let id: u32 = volume.kernel_name().trim_start_matches("ublkb").parse().unwrap();
    Kernel::default().stop(id).unwrap();
    eventually("it is closed", || volume.status()["state"] == "unlocked");
    eventually("the device is gone", || devices() < before);
    volume.open(&[]);
    volume.close();
}

#[test]
fn a_daemon_that_is_killed_while_it_opens_a_volume_leaves_no_device() {
    let mut host = Host::start();
    host.create("vol", &host.image("backing", 32 << 20), &[]);
    for delay in (0..200).step_by(20) {
        let mut opening =
            host.command(&["open", "vol"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        host.end_daemon("KILL");
        opening.wait().unwrap();
        host.start_daemon();
        host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
        // The worker was in time and is adopted, or it has ended and its device with it.
        eventually("a clear state", || {
            let live = host.json(&["status", "vol"])["state"] == "live";
            devices() == usize::from(live) && workers().len() == usize::from(live)
        });
        if host.json(&["status", "vol"])["state"] == "live" {
            run("udevadm settle");
            host.blkseal(&["close", "vol"]);
        }
        assert_eq!(devices(), 0, "after {delay} ms: {}", host.log());
    }
}

#[test]
fn a_recovered_volume_is_served_from_the_file_that_was_opened() {
    let mut host = Host::start();
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("vol", &backing, &[]);
    let link = volume.open(&[]);
    let (before, after) = (Pattern::new(5).bytes(64 << 10), Pattern::new(6).bytes(64 << 10));
    let disk = Disk::open(&link, 0);
    disk.write(0, &before).unwrap();
    // A copy of the image is moved over it, as a backup that is restored.
    fs::rename(&backing, host.path("original")).unwrap();
    fs::copy(host.path("original"), &backing).unwrap();
    let copy = fs::read(&backing).unwrap();
    let first = volume.worker_pid();
    kill(first);
    eventually("a new worker", || {
        volume.status()["device"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    });
    disk.write(64 << 10, &after).unwrap();
    assert!(fs::read(&backing).unwrap() == copy, "the copy was written to");
    drop(disk);

    // Both processes are gone: the path leads to another file, and nothing is written to that.
    let worker = volume.worker_pid();
    host.end_daemon("KILL");
    kill(worker);
    host.start_daemon();
    host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
    let volume = host.volume("vol", &backing);
    eventually("it says why", || {
        volume.status()["problem"].as_str().is_some_and(|problem| problem.contains("another file or disk"))
    });
    assert_eq!(volume.status()["state"], "quiesced");
    assert!(fs::read(&backing).unwrap() == copy, "the copy was written to");
    fs::rename(host.path("original"), &backing).unwrap();
    host.blkseal(&["open", "vol"]);
    let disk = Disk::open(&link, 0);
    assert!(disk.read(0, 64 << 10).unwrap() == before && disk.read(64 << 10, 64 << 10).unwrap() == after);
    drop(disk);
    volume.close();
}

#[test]
fn an_adopted_worker_hands_its_claim_over() {
    let mut host = Host::start();
    let backing = host.image("backing", 32 << 20);
    host.create("vol", &backing, &[]).open(&[]);
    host.end_daemon("KILL");
    host.start_daemon();
    host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
    let volume = host.volume("vol", &backing);
    fs::rename(&backing, host.path("original")).unwrap();
    fs::copy(host.path("original"), &backing).unwrap();
    let first = volume.worker_pid();
    kill(first);
    eventually("a new worker", || {
        volume.status()["device"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    });
    let data = Pattern::new(7).bytes(64 << 10);
    Disk::open(&volume.link(), 0).write(0, &data).unwrap();
    assert!(fs::read(&backing).unwrap()[16 << 20..(16 << 20) + 4096] == [0; 4096], "the copy was written to");
    fs::rename(host.path("original"), &backing).unwrap();
    volume.close();
}

#[test]
fn a_quiesced_volume_is_given_up_by_force_with_errors_to_those_who_wait() {
    let host = Host::start();
    let volume = host.create("vol", &host.image("backing", 32 << 20), &[]);
    let link = volume.open(&[]);
    host.blkseal(&["provider", "lock", "keys"]);
    kill(volume.worker_pid());
    eventually("it is quiesced", || volume.status()["state"] == "quiesced");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| Disk::open(&link, 0).read(0, 4096));
        let holder = || host.try_blkseal(&["close", "vol"]);
        eventually("somebody waits", || {
            let refused = holder();
            refused.status.code() == Some(5) && said(&refused).contains("close --force")
        });
        assert!(!reader.is_finished(), "nobody serves it");
        let closed = host.try_blkseal(&["close", "vol", "--force"]);
        assert!(closed.status.success(), "{}", said(&closed));
        assert!(said(&closed).contains("lost"), "{}", said(&closed));
        assert!(reader.join().unwrap().is_err(), "who waited got data");
    });
    eventually("the device is gone", || devices() == 0);
}

#[test]
fn what_is_write_protected_opens_to_read() {
    let host = Host::start();
    let mount = host.path("mount");
    fs::create_dir(&mount).unwrap();
    run(&format!("mount -t tmpfs none {mount}"));
    let (image, file) = (host.image("mount/image", 32 << 20), host.image("file", 32 << 20));
    let disk = run(&format!("losetup --find --show {file}")).trim().to_owned();
    let data = Pattern::new(8).bytes(64 << 10);
    let volumes = [host.create("image", &image, &[]), host.create("disk", &disk, &[])];
    for volume in &volumes {
        Disk::open(&volume.open(&[]), 0).write(0, &data).unwrap();
        volume.close();
    }
    run(&format!("mount -o remount,ro {mount}"));
    run(&format!("blockdev --setro {disk}"));
    let before = [&image, &file].map(|path| fs::read(path).unwrap());
    for volume in &volumes {
        let link = volume.open(&["--read-only"]);
        let read = host.path("read");
        run(&format!("dd if={} of={read} bs=64k count=1 iflag=direct", link.display()));
        assert!(fs::read(&read).unwrap() == data, "{} has other data", volume.name);
        volume.close();
    }
    assert!([&image, &file].map(|path| fs::read(path).unwrap()) == before, "something was written");
    run(&format!("losetup -d {disk}"));
    run(&format!("umount {mount}"));
}
