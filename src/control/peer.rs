//! Who is at the other end of a connection, as the kernel says.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// The process that connected, as it was when it did (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its process id.
    pub pid: i32,
}

impl Peer {
    /// The peer of `stream`.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = getsockopt(stream, PeerCredentials)?;
        let groups = supplementary_groups(stream)?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups, pid: credentials.pid() })
    }
}

fn supplementary_groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let room = groups.len() * size_of::<libc::gid_t>();
        let mut bytes = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `bytes` bytes to the vector, which has as many, and the number of those
        // that it has for us to `bytes`; both outlive the call.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let error = io::Error::last_os_error();
        groups.resize(bytes as usize / size_of::<libc::gid_t>(), 0);
        match done {
            0 => return Ok(groups),
            // The vector has grown to what they take.
            _ if error.raw_os_error() == Some(libc::ERANGE)
                && groups.len() * size_of::<libc::gid_t>() > room => {}
            _ => return Err(error),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    use nix::unistd::geteuid;

    /// Runs `work` in a thread that has another user and other groups than its process; `None` where this process may
    /// not, for it is not root's.
    pub(crate) fn as_user<T: Send>(
        uid: u32,
        gid: u32,
        groups: &[u32],
        work: impl FnOnce() -> T + Send,
    ) -> Option<T> {
        if !geteuid().is_root() {
            eprintln!("NOT RUN, for it takes root: calls of other users");
            return None;
        }
        let changed = move || {
            // By system calls, for those change this thread alone; libc's functions change the process.
            // SAFETY: `groups` is as long as is said; the other arguments are numbers.
            let done = unsafe {
                [
                    libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                    libc::syscall(libc::SYS_setresgid, gid, gid, gid),
                    libc::syscall(libc::SYS_setresuid, uid, uid, uid),
                ]
            };
            assert_eq!(done, [0; 3], "{}", io::Error::last_os_error());
            work()
        };
        Some(std::thread::scope(|scope| scope.spawn(changed).join().unwrap()))
    }

    #[test]
    fn a_peer_has_its_own_user_and_all_its_groups() {
        for count in [0, 1, 31, 32, 33, 200] {
            let groups: Vec<u32> = (1000..1000 + count).collect();
            let pair = as_user(4001, 5001, &groups, || UnixStream::pair().unwrap());
            let Some((stream, _)) = pair else { return };
            let pid = std::process::id() as i32;
            assert_eq!(Peer::of(&stream).unwrap(), Peer { uid: 4001, gid: 5001, groups, pid });
        }
    }
}
