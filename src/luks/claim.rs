//! Taking a backing device or file for one user.
//!
//! A block device is opened with `O_EXCL`: the kernel refuses that where the device or a partition of it is mounted,
//! below device mapper, md or swap, or open with `O_EXCL` elsewhere. A regular file is locked whole by an open file
//! description lock for writing (fcntl(2), `F_OFD_SETLK`): other blkseal processes and QEMU, which locks its images
//! the same way, see it, and libcryptsetup, which uses flock(2), does not stumble over it. Who takes neither, as loop
//! devices and virtual machines on a disk, is looked for. Who only reads stays: nothing of theirs is lost by it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::LuksError;
use crate::holders::{self, Access, Refusal};

/// Opens the block device or regular file `path` to read and write, for this caller alone, with `flags` (such as
/// `O_DIRECT`) besides. The claim ends when the last descriptor of this open file is closed.
pub fn claim(path: &Path, flags: i32) -> Result<File, LuksError> {
    claim_as(path, libc::F_WRLCK, flags)
}

/// The same to read only, beside others that only read: what is write-protected can be claimed.
pub fn claim_to_read(path: &Path) -> Result<File, LuksError> {
    claim_as(path, libc::F_RDLCK, 0)
}

fn claim_as(path: &Path, lock: i32, flags: i32) -> Result<File, LuksError> {
    let kind = fs::metadata(path).map_err(|e| LuksError::io("look at", path, e))?.file_type();
    let is_written = lock == libc::F_WRLCK;
    let open = |flags| OpenOptions::new().read(true).write(is_written).custom_flags(flags).open(path);
    let claimed = if kind.is_block_device() {
        holders::claim(path, Access::Write, || open(flags | libc::O_EXCL))
    } else if kind.is_file() {
        holders::claim(path, Access::Write, || open(flags).and_then(|file| lock_whole(file, lock)))
    } else {
        return Err(LuksError::WrongFileType(path.to_owned()));
    };
    claimed.map_err(|refusal| match refusal {
        Refusal::Held(holder) => LuksError::InUse { path: path.to_owned(), by: holder.to_string() },
        Refusal::Io(error) => LuksError::io("open", path, error),
    })
}

/// Fails with EAGAIN where somebody else has locked it.
fn lock_whole(file: File, kind: i32) -> io::Result<File> {
    // SAFETY: `flock` is plain data, for which all zeroes is a valid value: it means the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads one `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}
