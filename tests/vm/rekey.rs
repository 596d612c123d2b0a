//! Another KEK for a volume that is in use.

use std::process::Stdio;

use crate::support::load::{FIO, under_fio};
use crate::support::{Disk, Host, Pattern, Volume, eventually, run};

fn with_two_providers() -> Host {
    let host = Host::start();
    host.blkseal(&["provider", "add", "native", "spare", "--key-file", &host.path("key")]);
    host
}

fn unlock(host: &Host, provider: &str) {
    host.blkseal(&["provider", "unlock", provider, "--key-file", &host.path("key")]);
}

fn state(volume: &Volume<'_>) -> String {
    volume.status()["state"].as_str().unwrap().to_owned()
}

#[test]
fn io_goes_on_while_a_volume_changes_its_kek_and_its_provider() {
    let mut host = with_two_providers();
    let backing = host.image("backing", 32 << 20);
    let volume = host.create("busy", &backing, &[]);
    volume.add_recovery();
    let before = volume.dek();
    let path = volume.open(&[]);
    under_fio(&path, || {
        for _ in 0..4 {
            host.blkseal(&["kek", "create", "keys"]);
            for provider in ["spare", "keys"] {
                let done = host.blkseal(&["rekey", "--kek", "--to", provider, "busy", "--json"]);
                assert!(done.contains("\"rewrapped\":1"), "{done}");
            }
        }
        // In the midst of one more, the daemon is killed.
        let mut cut_off = host.command(&["rekey", "--kek", "--to", "spare", "busy"]);
        let mut cut_off = cut_off.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        host.end_daemon("KILL");
        cut_off.wait().unwrap();
        host.start_daemon();
        ["keys", "spare"].iter().for_each(|provider| unlock(&host, provider));
        host.blkseal(&["rekey", "--kek", "--to", "spare", "busy"]);
    });
    run("udevadm settle");
    host.blkseal(&["close", "busy"]);
    host.blkseal(&["open", "busy"]);
    run(&format!("{FIO} --verify_only --filename={}", path.display()));
    run("udevadm settle");
    host.blkseal(&["close", "busy"]);
    assert!(host.dek_of(&backing) == before, "the volume's own key is the same, says stock cryptsetup");
}

#[test]
fn a_worker_that_dies_is_replaced_with_the_key_of_the_new_provider() {
    let host = with_two_providers();
    let volume = host.create("moved", &host.image("backing", 32 << 20), &[]);
    let disk = Disk::open(&volume.open(&[]), 0);
    let data = Pattern::new(5).bytes(65536);
    disk.write(0, &data).unwrap();
    host.blkseal(&["rekey", "--kek", "--to", "spare", "moved"]);
    ["keys", "spare"].iter().for_each(|provider| drop(host.blkseal(&["provider", "lock", provider])));
    run(&format!("kill -9 {}", volume.worker_pid()));
    eventually("the volume is quiesced for want of its key", || {
        state(&volume) == "quiesced"
            && volume.status()["problem"].as_str().is_some_and(|p| p.contains("spare"))
    });
    unlock(&host, "keys");
    assert_eq!(state(&volume), "quiesced", "its key is no longer there");
    unlock(&host, "spare");
    eventually("the volume is live again", || state(&volume) == "live");
    assert!(disk.read(0, data.len()).unwrap() == data);
    drop(disk);
    volume.close();
}
