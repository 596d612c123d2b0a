//! A worker's process, whether this daemon started it or an earlier one did.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process that can be waited for and killed without ever meaning another one of the same number.
pub(super) struct Process {
    pidfd: OwnedFd,
    /// To be reaped, where it is a child of this process.
    child: Mutex<Option<Child>>,
}

impl Process {
    /// A child.
    pub fn of_child(child: Child) -> io::Result<Self> {
        Ok(Self { pidfd: open_pidfd(child.id())?, child: Mutex::new(Some(child)) })
    }

    /// Somebody else's child. The caller knows by other means that `pid` is still the one that it was.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Ok(Self { pidfd: open_pidfd(pid)?, child: Mutex::new(None) })
    }

    /// Waits until the process has ended, for `limit` at most. Says whether it has.
    pub fn wait(&self, limit: Option<Duration>) -> bool {
        let deadline = limit.map(|limit| Instant::now() + limit);
        loop {
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return false,
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    log::error!("cannot wait for a worker: {error}");
                    return false;
                }
            }
        }
        self.reap();
        true
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        // SAFETY: sends a signal to the process that the descriptor stands for; no memory is involved.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent != 0 {
            log::warn!("cannot kill a worker: {}", io::Error::last_os_error());
        }
    }

    fn reap(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child
            && let Err(error) = child.wait()
        {
            log::warn!("cannot reap worker {}: {error}", child.id());
        }
    }
}

fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor; no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.cast_signed(), 0) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given this descriptor to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_waited_for_killed_and_reaped() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id();
        let process = Process::of_child(child).unwrap();
        let seen_from_outside = Process::of_pid(pid).unwrap();
        assert!(!process.wait(Some(Duration::ZERO)));
        seen_from_outside.kill();
        assert!(process.wait(None) && seen_from_outside.wait(None));
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "a zombie is left");
    }
}
