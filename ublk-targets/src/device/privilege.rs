//! Giving up the capability that would have the driver trust a queue's thread.

use std::io;

/// linux/capability.h: `_LINUX_CAPABILITY_VERSION_3`, whose sets are two words each.
const VERSION: u32 = 0x2008_0522;
/// linux/capability.h: `CAP_SYS_ADMIN`.
const SYS_ADMIN: u32 = 1 << 21;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    thread: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes `CAP_SYS_ADMIN` from this thread for good, and from no other of the process.
pub(super) fn give_up_admin() -> io::Result<()> {
    let mut header = Header { version: VERSION, thread: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: of this version, capget writes a header and two of `Sets`.
    check(unsafe { libc::syscall(libc::SYS_capget, &mut header, sets.as_mut_ptr()) })?;
    sets[0].effective &= !SYS_ADMIN;
    sets[0].permitted &= !SYS_ADMIN;
    // SAFETY: of this version, capset reads a header and two of `Sets`.
    check(unsafe { libc::syscall(libc::SYS_capset, &mut header, sets.as_ptr()) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::thread;

    /// The effective capabilities of this thread.
    fn effective() -> u64 {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn one_thread_gives_it_up() {
        let before = effective();
        let after = thread::spawn(|| give_up_admin().map(|()| effective())).join().unwrap().unwrap();
        assert_eq!(after, before & !u64::from(SYS_ADMIN));
        assert_eq!(effective(), before);
    }
}
