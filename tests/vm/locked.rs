//! Volumes whose key is not to be had, and what becomes of them when it is.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::shell::said;
use crate::support::{Disk, Host, Pattern, eventually, run};

const STAYS_LOCKED: i32 = 6;
const NOT_FOUND: i32 = 67;
const LOCKED: i32 = 75;

fn unlock(host: &Host) {
    host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
}

fn state_of(host: &Host, name: &str) -> String {
    host.json(&["status", name])["state"].as_str().unwrap().to_owned()
}

fn wait_until_live(host: &Host, name: &str) {
    let start = Instant::now();
    while state_of(host, name) != "live" {
        assert!(start.elapsed() < Duration::from_secs(60), "{name} does not open: {}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The command ends with `code`.
fn ends(host: &Host, code: i32, arguments: &[&str]) {
    let output = host.try_blkseal(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
}

#[test]
fn a_locked_volume_opens_by_itself_and_has_its_data() {
    let mut host = Host::start();
    let data = Pattern::new(1).bytes(1 << 20);
    for name in ["one", "two"] {
        let volume = host.create(name, &host.image(&format!("{name}.img"), 32 << 20), &[]);
        Disk::open(&volume.open(&[]), 0).write(0, &data).unwrap();
        volume.close();
    }
    host.blkseal(&["provider", "lock", "keys"]);
    ends(&host, STAYS_LOCKED, &["open", "one"]);
    ends(&host, LOCKED, &["open", "two", "--no-wait"]);
    ends(&host, STAYS_LOCKED, &["open", "two", "--wait=1"]);
    let list = host.blkseal(&["list"]);
    assert_eq!(list.matches("locked, wanted").count(), 2, "{list}");
    ends(&host, 0, &["close", "two"]);
    ends(&host, NOT_FOUND, &["close", "two"]);

    // The next daemon knows what was wanted.
    host.end_daemon("KILL");
    host.start_daemon();
    assert!(host.blkseal(&["status", "one"]).contains("locked, wanted"));
    unlock(&host);
    wait_until_live(&host, "one");
    assert_eq!(state_of(&host, "two"), "unlocked");
    let link = host.path("dev/one");
    let read = Disk::open(link.as_ref(), 0).read(0, data.len()).unwrap();
    assert!(read == data, "the volume has other data");
    eventually("that is told", || {
        let events = host.blkseal(&["events", "--volume", "one", "--json"]);
        let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
        last["verb"] == "open" && last["result"] == "ok" && last["uid"].is_null()
    });
}

#[test]
fn who_waits_goes_on_when_the_provider_is_unlocked() {
    let host = Host::start();
    host.create("vol", &host.image("disk", 32 << 20), &[]);
    host.blkseal(&["provider", "lock", "keys"]);
    let waiting =
        host.command(&["open", "vol", "--wait"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while host.json(&["status", "vol"])["wanted"] != true {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    unlock(&host);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).starts_with("vol is open: "), "{}", said(&output));
}

#[test]
fn a_device_whose_worker_dies_without_a_key_waits_with_its_requests() {
    let host = Host::start();
    let volume = host.create("vol", &host.image("disk", 32 << 20), &[]);
    let link = volume.open(&[]);
    let data = Pattern::new(2).bytes(64 << 10);
    host.blkseal(&["provider", "lock", "keys"]);
    run(&format!("kill -KILL {}", volume.worker_pid()));
    let start = Instant::now();
    while !host.blkseal(&["status", "vol"]).contains("key provider keys is locked") {
        assert!(start.elapsed() < Duration::from_secs(60), "{}", host.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(state_of(&host, "vol"), "quiesced");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| Disk::open(&link, 0).write(0, &data).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!writer.is_finished(), "nobody serves it");
        unlock(&host);
        writer.join().unwrap();
    });
    assert_eq!(state_of(&host, "vol"), "live");
    let replaced = |result: &str| {
        let events = host.blkseal(&["events", "--json"]);
        events
            .lines()
            .filter(|line| {
                line.contains("\"worker replace\"") && line.contains(&format!("\"result\":\"{result}\""))
            })
            .count()
    };
    eventually("that is told", || replaced("ok") > 0);
    assert_eq!((replaced("Locked"), replaced("ok")), (1, 1), "what is tried again is told once");
    fs::metadata(&link).unwrap();
}
