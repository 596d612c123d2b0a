//! What a process that holds keys does about itself, before the first key arrives.

use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// Makes this process undumpable (no core, no ptrace by its own user) and sets its core limit to 0.
pub fn forbid_dumps() -> io::Result<()> {
    // SAFETY: changes an attribute of this process only.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}

/// Keeps every page of this process, now and later, out of swap, so that plaintext in buffers and what a library
/// derives from a key stay in memory. Pages are locked when they are first touched, not all at once.
///
/// With `CAP_SYS_RESOURCE` the limit is lifted first; without, the call fails where RLIMIT_MEMLOCK is too low.
pub fn lock_all_memory() -> io::Result<()> {
    let unlimited = nix::sys::resource::RLIM_INFINITY;
    // Not fatal: without the capability the limit stays what the administrator set, and mlockall says if it is too low.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, unlimited, unlimited);
    // SAFETY: changes how this process's pages are kept, not what is in them.
    match unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel that this process is below a block device, so that its allocations never wait for write-back
/// that only it could carry out (prctl(2), PR_SET_IO_FLUSHER). Needs `CAP_SYS_RESOURCE`.
pub fn set_io_flusher() -> io::Result<()> {
    const PR_SET_IO_FLUSHER: libc::c_int = 57; // linux/prctl.h
    // SAFETY: changes an attribute of this process only.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
