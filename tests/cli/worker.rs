//! A worker, as far as it goes without a job.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caps::{CapSet, Capability};

/// What the descriptors of process `pid` stand for.
fn open_in(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// As libcryptsetup has backings open without O_CLOEXEC while the daemon starts a worker.
#[test]
fn a_worker_keeps_no_descriptor_that_it_inherits() {
    // Containers' root may have less than all of root's capabilities; a worker that lacks this one ends at once.
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap() {
        return eprintln!("NOT RUN, for it takes CAP_SYS_RESOURCE: a worker");
    }
    let directory = tempfile::tempdir().unwrap();
    let backing = directory.path().join("other volume");
    let file = fs::File::create(&backing).unwrap();
    let (_daemon, job) = UnixStream::pair().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_blkseal"));
    command.arg("worker").stdin(Stdio::from(OwnedFd::from(job))).stdout(Stdio::null());
    let number = file.as_raw_fd();
    // SAFETY: dup2(2) is async-signal-safe; a copy at a number that is free does not close on exec.
    unsafe {
        command.pre_exec(move || match libc::dup2(number, 99) {
            99 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        })
    };
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    let has_it = |pid| open_in(pid).iter().any(|path| path == Path::new(&backing));
    while has_it(child.id()) && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let (left, is_alive) = (open_in(child.id()), child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_alive, "it waits for its job");
    assert!(!left.contains(&backing), "{left:?}");
}
