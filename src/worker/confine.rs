//! What a worker gives up, so that whoever takes it over gets little.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;

use caps::Capability;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::setsid;
use ublk_targets::secret::process;

use crate::{capabilities, holders};

/// What ublk's control commands need, for as long as the device lives: to delete it is one of them.
const KEPT: Capability = Capability::CAP_SYS_ADMIN;
/// Mounts that stay in the worker's view: device nodes, and where libublk keeps what its tools show.
const KEPT_MOUNTS: [&str; 5] = ["/", "/dev", "/proc", "/run", "/sys"];

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

/// When backing and socket are open and before the device is: no view of the host's mounts, no needless capability.
///
/// A worker that could see a mount of its own device would wait for itself when it ends, and one that sees any mount
/// keeps it from going away.
pub(super) fn for_service() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    keep_records_private()?;
    for place in mounts()?.iter().rev().filter(|place| !KEPT_MOUNTS.contains(&place.as_str())) {
        // One that is below another that is gone already is gone too.
        let _ = umount2(place.as_str(), MntFlags::MNT_DETACH);
    }
    capabilities::keep_only(&[KEPT]).map_err(|error| io::Error::other(error.to_string()))
}

/// libublk writes a record of each device here, as root, and would make the directory one that everybody writes to.
fn keep_records_private() -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create("/run/ublksrvd") {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Where things are mounted in this process's view, in the order of mounting.
fn mounts() -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(holders::unescape).collect())
}
