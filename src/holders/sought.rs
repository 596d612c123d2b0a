//! What is looked for.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, makedev, statx};

use super::within::within;
use crate::identity::FileId;

/// A file, or a block device with all that is held when it is.
pub(super) struct Sought {
    id: FileId,
    /// The block device itself, its partitions, and the disk that it is a partition of. None of a file.
    pub parts: Vec<Part>,
}

/// A block device as sysfs shows it.
pub(super) struct Part {
    /// Its device number.
    pub number: u64,
    /// Its directory.
    pub directory: PathBuf,
}

impl Sought {
    pub fn new(id: &FileId) -> Self {
        let parts = match id {
            FileId::Block { number, .. } => parts_of(*number),
            FileId::File { .. } => Vec::new(),
        };
        Self { id: *id, parts }
    }

    /// Whether this is it, by the device number and inode of a file or by the number of a block device.
    pub fn is(&self, file: (u64, u64), block_device: Option<u64>) -> bool {
        match self.id {
            FileId::File { device, inode } => file == (device, inode),
            FileId::Block { .. } => block_device.is_some_and(|number| self.has(number)),
        }
    }

    /// Whether this is it, or one of its parts.
    pub fn has(&self, number: u64) -> bool {
        self.parts.iter().any(|part| part.number == number)
    }

    /// Whether `path` leads to it. A path may lead to a server that is gone; those below /dev never do.
    pub fn is_at(&self, path: &Path) -> bool {
        let found = match path.starts_with("/dev") {
            true => look_at(path),
            false => {
                let path = path.to_owned();
                within(move || look_at(&path))
            }
        };
        found.is_some_and(|found| self.is_what(&found))
    }

    /// Whether this is it.
    pub fn is_what(&self, found: &Statx) -> bool {
        let is_block_device = FileType::from_raw_mode(found.stx_mode.into()).is_block_device();
        let number = is_block_device.then(|| makedev(found.stx_rdev_major, found.stx_rdev_minor));
        self.is((makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino), number)
    }
}

/// What is at `path`, as the kernel knows it without asking a server.
pub(super) fn look_at(path: &Path) -> Option<Statx> {
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE | StatxFlags::INO).ok()
}

fn parts_of(number: u64) -> Vec<Part> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let directory = fs::canonicalize(&link).unwrap_or(link);
    let is_partition = |directory: &Path| directory.join("partition").exists();
    let within = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let partitions = within.filter(|path| is_partition(path)).filter_map(Part::in_directory);
    let disk = directory.parent().filter(|_| is_partition(&directory)).map(Path::to_owned);
    let others: Vec<_> = partitions.chain(disk.and_then(Part::in_directory)).collect();
    [Part { number, directory }].into_iter().chain(others).collect()
}

impl Part {
    fn in_directory(directory: PathBuf) -> Option<Self> {
        let number = parse_number(fs::read_to_string(directory.join("dev")).ok()?.trim())?;
        Some(Self { number, directory })
    }
}

/// A device number as MAJOR:MINOR.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}
