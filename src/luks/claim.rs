//! Taking a backing device or file for one user.
//!
//! A block device is opened with `O_EXCL`: the kernel refuses that where the device or a partition of it is mounted,
//! below device mapper, md or swap, or open with `O_EXCL` elsewhere. A regular file is locked whole by an open file
//! description lock for writing (fcntl(2), `F_OFD_SETLK`): other blkseal processes and QEMU, which locks its images
//! the same way, see it, and libcryptsetup, which uses flock(2), does not stumble over it. Loop devices take no
//! lock, so they are looked up.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::stat::{major, minor};

use super::LuksError;

/// Opens the block device or regular file `path` to read and write, for this caller alone, with `flags` (such as
/// `O_DIRECT`) besides. The claim ends when the last descriptor of this open file is closed.
pub fn claim(path: &Path, flags: i32) -> Result<File, LuksError> {
    let metadata = fs::metadata(path).map_err(|e| LuksError::io("look at", path, e))?;
    if metadata.file_type().is_block_device() {
        claim_device(path, metadata.rdev(), flags)
    } else if metadata.is_file() {
        claim_file(path, &metadata, flags)
    } else {
        Err(LuksError::WrongFileType(path.to_owned()))
    }
}

fn claim_device(path: &Path, device: u64, flags: i32) -> Result<File, LuksError> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags | libc::O_EXCL).open(path);
    opened.map_err(|e| match e.raw_os_error() {
        Some(libc::EBUSY) => in_use(path, holder_of(device)),
        _ => LuksError::io("open", path, e),
    })
}

fn claim_file(path: &Path, metadata: &fs::Metadata, flags: i32) -> Result<File, LuksError> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(|e| {
            match e.raw_os_error() {
                Some(libc::ETXTBSY) => in_use(path, "it is swap or a running program".into()),
                _ => LuksError::io("open", path, e),
            }
        })?;
    lock_whole(&file).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied => {
            in_use(path, "another process has locked it".into())
        }
        _ => LuksError::io("lock", path, e),
    })?;
    match loop_device_of(metadata) {
        Some(name) => Err(in_use(path, format!("it is attached to /dev/{name}"))),
        None => Ok(file),
    }
}

fn lock_whole(file: &File) -> io::Result<()> {
    // SAFETY: `flock` is plain data, for which all zeroes is a valid value: it means the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads one `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The loop device whose backing file is this one, by whatever path.
fn loop_device_of(metadata: &fs::Metadata) -> Option<String> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let other = fs::metadata(backing.trim_end_matches('\n')).ok()?;
        let same = (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
        same.then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Who holds the block device `device`, or a partition of it, as far as sysfs and the mount table tell.
fn holder_of(device: u64) -> String {
    let number = format!("{}:{}", major(device), minor(device));
    let directory = Path::new("/sys/dev/block").join(&number);
    let mut parts = vec![(number, directory.clone())];
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if let Ok(number) = fs::read_to_string(entry.path().join("dev")) {
            parts.push((number.trim().to_owned(), entry.path()));
        }
    }
    let holder = parts.iter().find_map(|(number, directory)| {
        let below = || fs::read_dir(directory.join("holders")).ok()?.flatten().next();
        mounted_on(number)
            .map(|mount| format!("it is mounted on {mount}"))
            .or_else(|| Some(format!("/dev/{} is on it", below()?.file_name().to_string_lossy())))
    });
    holder.unwrap_or_else(|| "another process has it open for itself".into())
}

fn mounted_on(number: &str) -> Option<String> {
    // proc_pid_mountinfo(5): field 3 is MAJOR:MINOR, field 5 the mount point.
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == number).then(|| fields.nth(1).unwrap_or_default().to_owned())
    })
}

fn in_use(path: &Path, by: String) -> LuksError {
    LuksError::InUse { path: path.to_owned(), by }
}
