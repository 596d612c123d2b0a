//! Where the bytes of a passphrase are while the command runs: in secret memory, nowhere else.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::blkseal;
use crate::daemon::Daemon;

const PASSPHRASE: &[u8] = b"battery staple 0x5eed that is nowhere else";

/// Looks through all memory of the command as only root can; as another user there is nothing to look at.
#[test]
fn a_passphrase_is_in_secret_memory_only() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::start();
    for arguments in [["--key-file", "-"], ["--passphrase-fd", "0"]] {
        let found = daemon.hold_answers(|| {
            let mut child = blkseal(&daemon.socket)
                .args(["provider", "unlock", "lab"])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(PASSPHRASE).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut handed = Vec::new();
            while handed.is_empty() {
                assert!(Instant::now() < deadline, "the call never came");
                handed = daemon.secrets();
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(handed, [PASSPHRASE]);
            let found = look(child.id());
            child.kill().unwrap();
            child.wait().unwrap();
            found
        });
        assert!(found.searched > 1 << 16, "only {} bytes were searched", found.searched);
        assert_eq!(found.places, Vec::<String>::new());
    }
}

struct Found {
    searched: usize,
    places: Vec<String>,
}

/// Every mapping of the process that holds [`PASSPHRASE`], but those of secret memory.
fn look(pid: u32) -> Found {
    let mut found = Found { searched: 0, places: Vec::new() };
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with('r') || rest.contains("secret") || rest.contains("[vvar") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        if memory.read_exact_at(&mut bytes, start).is_ok() {
            found.searched += bytes.len();
            if bytes.windows(PASSPHRASE.len()).any(|window| window == PASSPHRASE) {
                found.places.push(line.to_owned());
            }
        }
    }
    found
}
