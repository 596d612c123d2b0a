//! A volume's files, opened once: what is read and changed through them is what was opened, whatever their paths lead to by
//! then.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{LuksError, Place, Placement};

/// How long somebody else may work on a header with libcryptsetup, as `cryptsetup` does, before that is an error; and how
/// often to look.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The open files of a volume.
#[derive(Debug)]
pub struct Files {
    backing: File,
    /// None where the header is on the backing.
    header: Option<File>,
}

impl Files {
    /// Opens the files of `place` to read them, without waiting for whoever is to open the other end of a pipe.
    pub fn open(place: &Place) -> Result<Self, LuksError> {
        let header = match &place.header {
            Placement::Attached => None,
            Placement::Detached(path) => Some(open_to_read(path)?),
        };
        Ok(Self { backing: open_to_read(&place.backing)?, header })
    }

    /// Files that the caller has opened: the backing, and the header where it is in a file of its own.
    pub fn new(backing: File, header: Option<File>) -> Self {
        Self { backing, header }
    }

    /// The open `backing` of `place`, and the header where it is in a file of its own, which is opened by its path.
    pub fn of_backing(backing: File, place: &Place) -> Result<Self, LuksError> {
        let header = match &place.header {
            Placement::Attached => None,
            Placement::Detached(path) => Some(open_to_read(path)?),
        };
        Ok(Self { backing, header })
    }

    /// The same files with a copy in memory of the first `length` bytes of what the header is on, to be written in its place.
    pub(super) fn with_copied_header(self, length: u64) -> io::Result<Self> {
        let Self { backing, header } = self;
        let header = header.as_ref().unwrap_or(&backing);
        let copy = File::from(memfd_create(c"header", MFdFlags::MFD_CLOEXEC)?);
        let mut chunk = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let rest = chunk.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
            match header.read_at(&mut chunk[..rest], at)? {
                0 => break,
                // The rest of the area of passphrases is zeros, for which no memory is taken.
                count if chunk[..count].iter().all(|&byte| byte == 0) => at += count as u64,
                count => {
                    copy.write_all_at(&chunk[..count], at)?;
                    at += count as u64;
                }
            }
        }
        copy.set_len(at)?;
        Ok(Self { backing, header: Some(copy) })
    }

    /// The backing, then the header where it is in a file of its own, to be handed to another process.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [&self.backing].into_iter().chain(&self.header).map(AsFd::as_fd)
    }

    /// The file that the header is in.
    pub(super) fn header(&self) -> &File {
        self.header.as_ref().unwrap_or(&self.backing)
    }

    /// That nobody holds the lock on the header that libcryptsetup would wait for without a limit: flock(2), which anybody can take
    /// who may read the file.
    pub(super) fn check_unlocked(&self, place: &Place) -> Result<(), LuksError> {
        let deadline = Instant::now() + LOCK_LIMIT;
        while is_locked(self.header()) {
            if Instant::now() > deadline {
                let by = "another process has locked it (flock); `lslocks` shows which".into();
                return Err(LuksError::InUse { path: place.header_path().to_owned(), by });
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Ok(())
    }

    /// Bytes in the backing.
    pub(super) fn size(&self, place: &Place) -> Result<u64, LuksError> {
        let end = (&self.backing).seek(SeekFrom::End(0));
        end.map_err(|e| LuksError::io("look at", &place.backing, e))
    }

    /// The place by paths that lead this process to these very files.
    fn place(&self) -> Place {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match &self.header {
            None => Place::attached(path(&self.backing)),
            Some(header) => Place::detached(path(&self.backing), path(header)),
        }
    }
}

fn open_to_read(path: &Path) -> Result<File, LuksError> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|e| LuksError::io("open", path, e))?;
    let kind = file.metadata().map_err(|e| LuksError::io("look at", path, e))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        Ok(file)
    } else {
        Err(LuksError::WrongFileType(path.to_owned()))
    }
}

/// Whether an open file of somebody else has a lock on `file`. Where the file system has no such locks, nobody has.
fn is_locked(file: &File) -> bool {
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    // SAFETY: locks and unlocks an open file; no memory is involved.
    let try_lock = |operation| unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } == 0;
    if !is_file || try_lock(libc::LOCK_EX) {
        let _ = try_lock(libc::LOCK_UN); // of which it cannot be told that it failed: it holds for a moment only
        return false;
    }
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock
}

/// The way to a volume's files.
#[derive(Clone, Debug, Default)]
pub enum Access {
    /// By their paths, at each use.
    #[default]
    ByPath,
    /// Through these, which stay open as long as this is there.
    Through(Arc<Files>),
}

/// It is no part of what a volume is how it was come by.
impl PartialEq for Access {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Access {}

impl Access {
    /// The open files of `place`.
    pub(super) fn files(&self, place: &Place) -> Result<Arc<Files>, LuksError> {
        match self {
            Self::ByPath => Files::open(place).map(Arc::new),
            Self::Through(files) => Ok(Arc::clone(files)),
        }
    }

    /// Paths that lead this process to the files of `place` in this way.
    pub(super) fn place(&self, place: &Place) -> Place {
        match self {
            Self::ByPath => place.clone(),
            Self::Through(files) => files.place(),
        }
    }
}
