//! Processes are killed at random moments under fio, which checks every block that it wrote: it sees no error and no
//! wrong block. `BLKSEAL_KILLS` says how often, `BLKSEAL_SEED` at which moments.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::rounds::{chance, rounds};
use crate::support::{Host, Pattern, Volume, eventually, run, run_in};

/// Kills in an ordinary run of the tests.
const USUAL: u64 = 12;

/// fio until it is told to end: random writes of mixed sizes, each checked.
struct Load {
    fio: std::process::Child,
}

impl Load {
    fn start(path: &Path) -> Self {
        let fio = Command::new("fio")
            .args(["--name=kills", "--rw=randwrite", "--bsrange=4k-128k", "--size=48m", "--direct=1"])
            .args([
                "--ioengine=libaio",
                "--iodepth=16",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
            ])
            .args(["--verify_backlog=32", "--loops=1000000"])
            .arg(format!("--filename={}", path.display()))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self { fio }
    }

    fn is_well(&mut self) -> bool {
        self.fio.try_wait().unwrap().is_none()
    }

    /// Ends it by SIGINT, at which it reports: an error until then is its exit status.
    fn end(mut self) {
        assert!(self.is_well(), "fio ended: an I/O error or a wrong block");
        run(&format!("kill -INT {}", self.fio.id()));
        let status = self.fio.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 128)), "fio ended with {status}");
    }
}

/// A moment at which a new worker may be anywhere between its first instruction and a busy queue.
fn moment(chance: &mut Pattern) -> Duration {
    let longest = if chance.below(2) == 0 { 200 } else { 1500 };
    Duration::from_millis(chance.below(longest))
}

/// Kills whatever process serves the volume now, if one is known.
fn kill_worker(volume: &Volume<'_>) {
    if let Some(pid) = volume.status()["device"]["pid"].as_u64() {
        // It may have ended since.
        let _ =
            Command::new("kill").args(["-9", &pid.to_string()]).stderr(std::process::Stdio::null()).status();
    }
}

/// Waits until the volume is served again. After several deaths in a row it is left for somebody to look at, who opens it.
fn wait_until_served(host: &Host, volume: &Volume<'_>) {
    eventually("the volume is served again", || {
        let status = volume.status();
        if status["state"] == "quiesced" {
            host.try_blkseal(&["open", &volume.name]);
        }
        status["state"] == "live" && status["device"]["counters"].is_object()
    });
}

/// It went on since: what was lost on the way would have stopped it.
fn wait_for_progress(volume: &Volume<'_>) {
    let done = || volume.status()["device"]["counters"]["writes"].as_u64().unwrap_or(0);
    let before = done();
    eventually("requests are served", || done() > before);
}

#[test]
fn killed_workers_lose_no_request() {
    let (kills, mut chance) = (rounds("BLKSEAL_KILLS", USUAL), chance());
    let host = Host::start();
    let volume = host.create("killed", &host.image("backing", 72 << 20), &[]);
    let path = volume.open(&["--queues", "2", "--depth", "16"]);
    let node = volume.kernel_name();
    let mut load = Load::start(&path);
    for kill in 0..kills {
        std::thread::sleep(moment(&mut chance));
        kill_worker(&volume);
        // Now and then the successor, too, while it takes over.
        if chance.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(chance.below(250)));
            run_in(Command::new("sh").args(["-c", "pkill -9 -f 'blkseal worker' || true"]));
        }
        wait_until_served(&host, &volume);
        assert!(load.is_well(), "after {} kills of workers: an I/O error or a wrong block", kill + 1);
    }
    wait_for_progress(&volume);
    load.end();
    assert_eq!(volume.kernel_name(), node, "the device kept its node");
    println!("killed {kills} workers");
    run("udevadm settle");
    volume.close();
}

#[test]
fn killed_daemons_lose_no_request() {
    let (kills, mut chance) = (rounds("BLKSEAL_KILLS", USUAL), chance());
    let mut host = Host::start();
    let backing = host.image("backing", 72 << 20);
    let path = host.create("orphaned", &backing, &[]).open(&["--queues", "2", "--depth", "16"]);
    let mut load = Load::start(&path);
    for kill in 0..kills {
        std::thread::sleep(moment(&mut chance));
        // Every third time the worker dies with it, or while nobody is there to see it.
        let worker = (kill % 3 == 0).then(|| host.volume("orphaned", &backing).worker_pid());
        host.end_daemon("KILL");
        if let Some(pid) = worker {
            run(&format!("kill -9 {pid}"));
        }
        host.start_daemon();
        host.blkseal(&["provider", "unlock", "keys", "--key-file", &host.path("key")]);
        wait_until_served(&host, &host.volume("orphaned", &backing));
        assert!(load.is_well(), "after {} kills of daemons: an I/O error or a wrong block", kill + 1);
    }
    wait_for_progress(&host.volume("orphaned", &backing));
    load.end();
    println!("killed {kills} daemons");
    run("udevadm settle");
    host.blkseal(&["close", "orphaned"]);
}
