//! What a process does to a file, system call by system call.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A system call that mattered to the file.
pub enum Step {
    /// The first bytes of the file have changed to these.
    Wrote(Vec<u8>),
    /// What was written before is on stable storage.
    Synced,
}

/// Runs `command` and gives what it did to the first `len` bytes of `file`, in order. The file is looked at after each
/// system call of each of its threads, so that no way of writing is overlooked.
#[allow(clippy::zombie_processes, reason = "it is waited for by its process id")]
pub fn steps(command: &mut Command, file: &Path, len: usize) -> Vec<Step> {
    // SAFETY: one system call and nothing else is made between fork and exec.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let child = command.process_group(0).spawn().unwrap();
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let stopped = waitpid(process, None).unwrap();
    assert!(
        matches!(stopped, WaitStatus::Stopped(_, Signal::SIGTRAP)),
        "{stopped:?} instead of a stop at exec"
    );
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(process, options).unwrap();
    ptrace::syscall(process, None).unwrap();

    let mut seen = head(file, len);
    let mut steps = Vec::new();
    // By its group, for other tests of this process have children of their own.
    let group = Pid::from_raw(-process.as_raw());
    loop {
        match waitpid(group, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(thread) => {
                let now = head(file, len);
                if now != seen {
                    seen.clone_from(&now);
                    steps.push(Step::Wrote(now));
                }
                if leaves_sync_of(thread, file) {
                    steps.push(Step::Synced);
                }
                ptrace::syscall(thread, None).unwrap();
            }
            // A new thread begins with a stop.
            WaitStatus::PtraceEvent(thread, ..) | WaitStatus::Stopped(thread, Signal::SIGSTOP) => {
                ptrace::syscall(thread, None).unwrap();
            }
            WaitStatus::Stopped(thread, signal) => ptrace::syscall(thread, signal).unwrap(),
            WaitStatus::Exited(ended, status) if ended == process => {
                assert_eq!(status, 0, "{command:?} failed");
                return steps;
            }
            WaitStatus::Exited(..) => {}
            other => panic!("{command:?}: {other:?}"),
        }
    }
}

/// Whether `thread` has just ended an fsync or fdatasync of `file` that succeeded.
fn leaves_sync_of(thread: Pid, file: &Path) -> bool {
    thread_local! {
        /// The call that the traced thread is in, where that is a sync of the file.
        static UNDER_WAY: std::cell::Cell<Option<Pid>> = const { std::cell::Cell::new(None) };
    }
    let info = ptrace::syscall_info(thread).unwrap();
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: the kernel says that this is what it has filled in.
            let call = unsafe { info.u.entry };
            let is_sync =
                [libc::SYS_fsync, libc::SYS_fdatasync].map(|number| number as u64).contains(&call.nr);
            let target = || fs::read_link(format!("/proc/{thread}/fd/{}", call.args[0])).unwrap();
            if is_sync && target() == file {
                UNDER_WAY.set(Some(thread));
            }
            false
        }
        libc::PTRACE_SYSCALL_INFO_EXIT if UNDER_WAY.get() == Some(thread) => {
            UNDER_WAY.set(None);
            // SAFETY: as above.
            unsafe { info.u.exit }.is_error == 0
        }
        _ => false,
    }
}

fn head(file: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(file).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
