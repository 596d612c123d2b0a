//! What a file or block device is, whatever path leads to it.
//!
//! A path can lead elsewhere from one moment to the next: a symlink is swapped, a copy is moved over an image, a disk is
//! plugged in again under another number. What was claimed is known by this.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The identity of a file or block device on this host, until it is unmounted or unplugged.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FileId {
    /// A file, by the file system's device number and its inode.
    File {
        /// The device number of its file system.
        device: u64,
        /// Its inode.
        inode: u64,
    },
    /// A block device.
    Block {
        /// Its device number. A disk that is plugged in later may get the same one.
        number: u64,
        /// How many disks the kernel had met when it met this one; none where it was not asked, or is older than 5.15.
        #[serde(skip_serializing_if = "Option::is_none")]
        sequence: Option<u64>,
    },
}

impl FileId {
    /// What is open as `file`.
    pub fn of(file: &File) -> io::Result<Self> {
        Ok(match Self::from(&file.metadata()?) {
            Self::Block { number, .. } => Self::Block { number, sequence: disk_sequence(file) },
            id => id,
        })
    }

    /// What `path` leads to now. It is not opened, so that the sequence of a block device is not known.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }
}

/// Opens what is open as `file` once more, to read it: with an offset and flags of its own.
pub fn reopen_to_read(file: &File) -> io::Result<File> {
    let again = OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // A disk may have been plugged in since under the number of one that is gone.
    match FileId::of(&again)? == FileId::of(file)? {
        true => Ok(again),
        false => Err(io::Error::from_raw_os_error(nix::libc::ENODEV)),
    }
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        match metadata.file_type().is_block_device() {
            true => Self::Block { number: metadata.rdev(), sequence: None },
            false => Self::File { device: metadata.dev(), inode: metadata.ino() },
        }
    }
}

/// The same, as far as both say: a sequence that is not known is not compared.
impl PartialEq for FileId {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { device, inode }, Self::File { device: other_device, inode: other_inode }) => {
                (device, inode) == (other_device, other_inode)
            }
            (
                Self::Block { number, sequence },
                Self::Block { number: other_number, sequence: other_sequence },
            ) => {
                let differ = sequence.zip(*other_sequence).is_some_and(|(sequence, other)| sequence != other);
                number == other_number && !differ
            }
            _ => false,
        }
    }
}

fn disk_sequence(file: &File) -> Option<u64> {
    // linux/fs.h: BLKGETDISKSEQ, since Linux 5.15.
    nix::ioctl_read!(disk_sequence_of, 0x12, 128, u64);
    let mut sequence = 0;
    // SAFETY: BLKGETDISKSEQ writes one u64, which `sequence` is.
    unsafe { disk_sequence_of(file.as_raw_fd(), &mut sequence) }.ok()?;
    Some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_whatever_path_and_a_copy_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let [path, link, copy] = ["image", "link", "copy"].map(|name| directory.path().join(name));
        fs::write(&path, "content").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::copy(&path, &copy).unwrap();
        let id = FileId::of(&File::open(&path).unwrap()).unwrap();
        assert_eq!(id, FileId::at(&link).unwrap());
        assert_ne!(id, FileId::at(&copy).unwrap());
        fs::rename(&copy, &path).unwrap();
        assert_ne!(id, FileId::at(&path).unwrap());
    }

    #[test]
    fn what_is_opened_again_is_what_was_open_wherever_its_path_leads() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        fs::write(directory.path().join("new"), "new").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(io::read_to_string(reopen_to_read(&file).unwrap()).unwrap(), "old");
    }

    #[test]
    fn a_disk_that_got_the_number_of_another_is_another() {
        let disk = |sequence| FileId::Block { number: 7, sequence };
        assert_eq!(disk(Some(1)), disk(Some(1)));
        assert_eq!(disk(Some(1)), disk(None));
        assert_ne!(disk(Some(1)), disk(Some(2)));
        assert_ne!(disk(None), FileId::Block { number: 8, sequence: None });
        assert_ne!(disk(None), FileId::File { device: 7, inode: 7 });
    }
}
