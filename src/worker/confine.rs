//! What a worker gives up, so that whoever takes it over gets little.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;

use caps::Capability;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::{chdir, pivot_root, setsid};
use ublk_targets::secret::process;

use crate::capabilities;

/// What ublk's control commands need, for as long as the device lives: to delete it is one of them.
const KEPT: Capability = Capability::CAP_SYS_ADMIN;
/// What stays in view until the device serves: device nodes, and what says how many processors there are.
const PLACES: [&str; 3] = ["dev", "proc", "sys"];
/// Where the worker's own root is put together: a directory that every system has, and that a worker needs no more.
const ROOT: &str = "/run";
const NONE: Option<&str> = None;

/// Closes every descriptor but the standard ones. What the daemon's libraries have open without O_CLOEXEC in the
/// moment in which it starts this process, other volumes' backings among it, would stay open for as long as this lives.
pub(super) fn close_inherited() -> io::Result<()> {
    // SAFETY: nothing in this process has opened any of these yet, so that nobody will use or close what gets their numbers.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Before the first key arrives: no dumps, no swap, no terminal, no allocation that waits for this very device.
pub(super) fn from_the_start() -> io::Result<()> {
    process::forbid_dumps()?;
    process::lock_all_memory()?;
    process::set_io_flusher()?;
    prctl::set_no_new_privs()?;
    // It was started by /proc/self/exe, which names it "exe".
    prctl::set_name(c"blkseal")?;
    // The daemon takes its signals in one thread and blocks them elsewhere; that must not be inherited.
    SigSet::all().thread_unblock()?;
    // Fails only for the leader of a session, which is what is wanted.
    let _ = setsid();
    Ok(())
}

/// When backing and socket are open and before the device is: a root of its own with nothing but what a device is made with,
/// no needless capability.
///
/// A worker that could see a mount of its own device would wait for itself when it ends, and one that sees any mount
/// keeps it from going away.
pub(super) fn for_service() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    enter_own_root()?;
    capabilities::keep_only(&[KEPT]).map_err(|error| io::Error::other(error.to_string()))
}

/// Once the device serves, for which no file is needed any more: nothing is left in view.
pub(super) fn for_serving() -> io::Result<()> {
    PLACES.into_iter().try_for_each(|place| Ok(umount2(&*format!("/{place}"), MntFlags::MNT_DETACH)?))
}

fn enter_own_root() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("blkseal"), ROOT, Some("tmpfs"), flags, Some("mode=0755,size=1m"))?;
    for place in PLACES {
        let inside = format!("{ROOT}/{place}");
        fs::create_dir(&inside)?;
        mount(Some(&*format!("/{place}")), &*inside, NONE, MsFlags::MS_BIND, NONE)?;
    }
    // libublk writes a record of each device here and reads it, as root; on the host, others may have made the directory.
    DirBuilder::new().recursive(true).mode(0o700).create(format!("{ROOT}/run/ublksrvd"))?;
    chdir(ROOT)?;
    match pivot_root(".", ".") {
        // The old root is above the new one now.
        Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
        Err(Errno::EINVAL) => {
            return Err(io::Error::other(
                "cannot leave the root file system, as if it were an initramfs: put the system on another, by switch_root(8)",
            ));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(chdir("/")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &str) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// In a thread, which has a mount namespace and capabilities of its own then.
    #[test]
    fn a_worker_sees_what_it_needs_and_then_nothing() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("NOT RUN, for it takes root: a root of its own");
        }
        let confined = || {
            for_service().unwrap();
            assert_eq!(names("/"), ["dev", "proc", "run", "sys"]);
            assert_eq!(names("/run"), ["ublksrvd"]);
            assert!(fs::exists("/dev/null").unwrap() && fs::exists("/proc/self/mountinfo").unwrap());
            let mounted = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert_eq!(mounted.lines().count(), 4, "{mounted}");
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let left = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
            assert_eq!(u64::from_str_radix(left, 16).unwrap(), 1 << (KEPT as u64), "{status}");
            for_serving().unwrap();
            PLACES.into_iter().for_each(|place| assert!(names(&format!("/{place}")).is_empty()));
        };
        std::thread::scope(|scope| scope.spawn(confined).join().unwrap());
        assert!(fs::exists("/usr").unwrap(), "of this thread's nothing has changed");
    }
}
