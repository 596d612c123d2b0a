//! Who uses a block device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use super::VolumeError;
use crate::name::Name;

/// How long udev and the like may look at a device before they count as users.
const PATIENCE: Duration = Duration::from_secs(3);

/// Claims the device `node` of volume `name` for this process, read-only, if nobody else uses it: while the claim is
/// held it can be neither mounted nor claimed.
pub fn claim_unused(name: &Name, node: &Path) -> Result<File, VolumeError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let by = match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(node) {
            Ok(claim) => match opener_of(&claim) {
                None => return Ok(claim),
                Some(process) => process,
            },
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => claimant_of(node),
            Err(source) => return Err(VolumeError::Io { action: "open", path: node.to_owned(), source }),
        };
        if Instant::now() > deadline {
            return Err(VolumeError::InUse { name: name.clone(), by });
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Who has claimed the device: a mount, a device on top of it, or somebody else.
fn claimant_of(node: &Path) -> String {
    let number = fs::metadata(node).map_or(0, |metadata| metadata.rdev());
    let number = format!("{}:{}", major(number), minor(number));
    let directory = Path::new("/sys/dev/block").join(&number);
    // Partitions count as users of the whole device.
    let mut parts = vec![(number, directory.clone())];
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if let Ok(number) = fs::read_to_string(entry.path().join("dev")) {
            parts.push((number.trim().to_owned(), entry.path()));
        }
    }
    parts
        .iter()
        .find_map(|(number, directory)| {
            let holder = || fs::read_dir(directory.join("holders")).ok()?.flatten().next();
            mounted_on(number)
                .map(|mount| format!("it is mounted on {mount}"))
                .or_else(|| Some(format!("/dev/{} is on it", holder()?.file_name().to_string_lossy())))
        })
        .unwrap_or_else(|| "another process has claimed it".into())
}

fn mounted_on(number: &str) -> Option<String> {
    // The first process sees the host's mounts even where this one has a mount namespace of its own.
    let mounts =
        fs::read_to_string("/proc/1/mountinfo").or_else(|_| fs::read_to_string("/proc/self/mountinfo"));
    // proc_pid_mountinfo(5): field 3 is MAJOR:MINOR, field 5 the mount point.
    mounts.ok()?.lines().find_map(|line| {
        let mut fields = line.split(' ');
        (fields.nth(2)? == number).then(|| fields.nth(1).unwrap_or_default().to_owned())
    })
}

/// Another process that has the device open without a claim, as virtual machines do.
fn opener_of(claim: &File) -> Option<String> {
    let device = claim.metadata().ok()?.rdev();
    let own = std::process::id();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        if pid == own || !has_open(&entry.path(), device).unwrap_or(false) {
            return None;
        }
        let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        Some(format!("process {pid} ({}) has it open", command.trim_end()))
    })
}

fn has_open(process: &Path, device: u64) -> io::Result<bool> {
    let is_device = |entry: fs::DirEntry| {
        fs::metadata(entry.path())
            .is_ok_and(|metadata| metadata.file_type().is_block_device() && metadata.rdev() == device)
    };
    Ok(fs::read_dir(process.join("fd"))?.flatten().any(is_device))
}
