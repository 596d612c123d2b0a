//! Full-length I/O on the backing, a block device or a file, on the queue's ring.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::buffer::Sealed;
use crate::cipher::SectorSize;
use crate::request::{IoError, LBA_BYTES, SectorRange};
use crate::ring::{Io, Uring};

/// Pauses between tries of an operation that the kernel did not get to: 1 ms, and twice as long each time, four seconds in
/// all. What does not work by then is an error.
const PAUSES: u32 = 12;

/// Why a backing cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackingError {
    /// It could not be opened or asked for its size.
    #[error("cannot open {path}")]
    Open {
        /// The backing.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Neither a block device nor a regular file.
    #[error("{path} is neither a block device nor a regular file")]
    Kind {
        /// The backing.
        path: PathBuf,
    },
    /// Smaller than the volume that is said to be on it. All figures in bytes.
    #[error("{path} holds {found} bytes, but the volume on it needs {needed}: it was cut short")]
    TooSmall {
        /// The backing.
        path: PathBuf,
        /// Bytes that it has.
        found: u64,
        /// Bytes that the volume reaches to.
        needed: u64,
    },
    /// The volume's sectors are smaller than the blocks that the device can write.
    #[error("{path} has blocks of {block} bytes and cannot store sectors of {sector_size} bytes one by one")]
    Block {
        /// The backing.
        path: PathBuf,
        /// Bytes of a block of the device.
        block: u32,
        /// Bytes of the volume's sectors.
        sector_size: u32,
    },
}

/// Which part of a backing is used, and how.
#[derive(Clone, Copy, Debug)]
pub struct BackingOptions {
    /// Where the data starts, in bytes; a whole number of sectors.
    pub offset: u64,
    /// Bytes of data; a whole number of sectors. `None`: to the end, rounded down to a sector.
    pub length: Option<u64>,
    /// The smallest unit that will be read or written.
    pub sector_size: SectorSize,
    /// Whether it is opened for reading only.
    pub read_only: bool,
}

/// An open backing, whose operations go through `I`.
pub struct Backing<I = Uring> {
    io: I,
    file: File,
    is_device: bool,
    offset: u64,
    length: u64,
    physical_block: u32,
}

impl Backing {
    /// Opens `path` as a backing.
    pub fn open(path: &Path, options: &BackingOptions) -> Result<Self, BackingError> {
        let file = OpenOptions::new().read(true).write(!options.read_only).open(path);
        let file = file.map_err(|source| BackingError::Open { path: path.to_owned(), source })?;
        Self::new(file, path, options)
    }

    /// Serves what is open as `file`, past the page cache (`O_DIRECT`) wherever its file system can do that for single
    /// sectors: this changes the open file, for whoever shares it, too. `path` is for messages only.
    pub fn new(file: File, path: &Path, options: &BackingOptions) -> Result<Self, BackingError> {
        let fail = |source| BackingError::Open { path: path.to_owned(), source };
        let kind = file.metadata().map_err(fail)?.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            return Err(BackingError::Kind { path: path.to_owned() });
        }
        let size = size_of(&file, is_device).map_err(fail)?;
        let block = io_block(&file, is_device).map_err(fail)?;
        let sector_size = u32::from(options.sector_size);
        if is_device && block > sector_size {
            return Err(BackingError::Block { path: path.to_owned(), block, sector_size });
        }
        let direct = block <= sector_size && set_direct(&file, true).map_err(fail)?;
        if !direct {
            set_direct(&file, false).map_err(fail)?;
        }
        let available = size.saturating_sub(options.offset);
        let length = options.length.unwrap_or(available - available % u64::from(sector_size));
        if length > available || length == 0 {
            let needed = options.offset + length.max(u64::from(sector_size));
            return Err(BackingError::TooSmall { path: path.to_owned(), found: size, needed });
        }
        let physical_block = physical_block(&file, is_device).map_err(fail)?.max(sector_size);
        Ok(Self { io: Uring, file, is_device, offset: options.offset, length, physical_block })
    }

    /// The same backing with operations that go through `io`: for tests.
    pub fn through<I: Io>(self, io: I) -> Backing<I> {
        let Self { io: _, file, is_device, offset, length, physical_block } = self;
        Backing { io, file, is_device, offset, length, physical_block }
    }
}

impl<I: Io> Backing<I> {
    /// Units of 512 bytes from the start of the data to its end.
    pub fn sectors(&self) -> u64 {
        self.length / LBA_BYTES
    }

    /// Bytes of the unit that the backing writes without reading first.
    pub fn physical_block(&self) -> u32 {
        self.physical_block
    }

    /// The open file, for a claim on it or for a ring to register.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reads all of `range` into the start of `buffer`.
    pub(crate) async fn read<'b>(
        &self,
        range: SectorRange,
        buffer: &'b mut [u8],
    ) -> Result<Sealed<'b>, IoError> {
        let data = &mut buffer[..usize_of(range.bytes())];
        let start = self.offset + range.offset();
        let mut done = 0;
        while done < data.len() {
            match self.try_again(async || self.io.read(start + done as u64, &mut data[done..]).await).await? {
                0 => return Err(IoError::ShortTransfer),
                read => done += read as usize,
            }
        }
        Ok(Sealed::new(data))
    }

    /// Writes all of `data` to `range`. `durable`: it is on stable storage when this returns (FUA).
    pub(crate) async fn write(
        &self,
        range: SectorRange,
        data: &Sealed<'_>,
        durable: bool,
    ) -> Result<(), IoError> {
        let data = data.bytes();
        assert_eq!(data.len() as u64, range.bytes(), "a write is as long as its range");
        let start = self.offset + range.offset();
        self.reaches(start + range.bytes())?;
        let mut done = 0;
        while done < data.len() {
            let write = async || self.io.write(start + done as u64, &data[done..], durable).await;
            match self.try_again(write).await? {
                0 => return Err(IoError::ShortTransfer),
                written => done += written as usize,
            }
        }
        Ok(())
    }

    /// Brings everything written so far to stable storage. It is tried once: what failed is perhaps forgotten by a second
    /// time, which would then be a success that is none.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        answer(self.io.sync().await).map(|_| ())
    }

    /// Tells the backing that the content of `range` is no longer needed. Kernels before 6.12 cannot do that to a
    /// device on a ring: the caller then gets EOPNOTSUPP, which the block layer takes for "no discard here".
    pub(crate) async fn discard(&self, range: SectorRange) -> Result<(), IoError> {
        let (offset, bytes) = (self.offset + range.offset(), range.bytes());
        let outcome = match self.is_device {
            true => self.try_again(async || self.io.discard(offset, bytes).await).await,
            false => self.try_again(async || self.io.punch_hole(offset, bytes).await).await,
        };
        match outcome {
            Err(IoError::Backing(libc::ENOTTY)) => Err(IoError::Unsupported),
            other => other.map(|_| ()),
        }
    }

    /// Fails where a file ends before `end`: somebody has cut it short, and a write would make it grow again, with zeros in
    /// the place of all that was lost between.
    ///
    /// A question to memory at each write, which is little beside a write to a file. Writes to a device ask nothing: it
    /// does not grow.
    fn reaches(&self, end: u64) -> Result<(), IoError> {
        match !self.is_device && size_now(&self.file)? < end {
            true => Err(IoError::ShortTransfer),
            false => Ok(()),
        }
    }

    /// Has `operation` tried until the kernel gets to it, within limits. Answers bytes moved.
    async fn try_again(&self, mut operation: impl AsyncFnMut() -> i32) -> Result<u32, IoError> {
        for doubled in 0..PAUSES {
            match answer(operation().await) {
                Err(IoError::Unfinished) => self.io.pause(Duration::from_millis(1 << doubled)).await,
                outcome => return outcome,
            }
        }
        answer(operation().await)
    }
}

/// What the kernel's answer to an operation means.
fn answer(answer: i32) -> Result<u32, IoError> {
    match u32::try_from(answer) {
        Ok(done) => Ok(done),
        Err(_) if answer == -libc::EINTR || answer == -libc::EAGAIN => Err(IoError::Unfinished),
        Err(_) => Err(IoError::Backing(answer.saturating_neg())),
    }
}

/// Has I/O on `file` go past the page cache or not. Says whether it does: not every file system has such a thing.
fn set_direct(file: &File, direct: bool) -> io::Result<bool> {
    // SAFETY: reads the status flags of an open descriptor.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    let wanted = if direct { flags | libc::O_DIRECT } else { flags & !libc::O_DIRECT };
    // SAFETY: changes the status flags of an open descriptor.
    if flags >= 0 && unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, wanted) } == 0 {
        return Ok(direct);
    }
    match io::Error::last_os_error() {
        error if direct && error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        error => Err(error),
    }
}

mod ioctl {
    nix::ioctl_read!(size, 0x12, 114, u64); // BLKGETSIZE64
    nix::ioctl_read_bad!(logical_block, 0x1268, libc::c_int); // BLKSSZGET
    nix::ioctl_read_bad!(physical_block, 0x127b, libc::c_uint); // BLKPBSZGET
}

fn size_of(file: &File, is_device: bool) -> io::Result<u64> {
    if !is_device {
        return Ok(file.metadata()?.len());
    }
    let mut bytes = 0;
    // SAFETY: the ioctl writes one u64, which is what it is given.
    unsafe { ioctl::size(file.as_raw_fd(), &mut bytes) }?;
    Ok(bytes)
}

/// Bytes of a file as this host knows it: of one on a network, what was last heard, so that nothing waits for its server.
fn size_now(file: &File) -> Result<u64, IoError> {
    let stat = statx(file, libc::AT_STATX_DONT_SYNC, libc::STATX_SIZE)
        .map_err(|error| IoError::Backing(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(stat.stx_size)
}

fn statx(file: &File, flags: libc::c_int, mask: libc::c_uint) -> io::Result<libc::statx> {
    // SAFETY: all-zero is a valid `statx`.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | flags;
    // SAFETY: the path is an empty constant string, and `stat` is writable.
    match unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, &mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Bytes of the unit that I/O past the page cache must be aligned to.
fn io_block(file: &File, is_device: bool) -> io::Result<u32> {
    if is_device {
        let mut block = 0;
        // SAFETY: the ioctl writes one int, which is what it is given.
        unsafe { ioctl::logical_block(file.as_raw_fd(), &mut block) }?;
        return Ok(block.unsigned_abs());
    }
    if let Ok(stat) = statx(file, 0, libc::STATX_DIOALIGN)
        && stat.stx_mask & libc::STATX_DIOALIGN != 0
        && stat.stx_dio_offset_align != 0
    {
        return Ok(stat.stx_dio_offset_align);
    }
    // Kernels before 6.1 do not tell; every disk takes 4096, and smaller sectors then go through the page cache.
    Ok(4096)
}

fn physical_block(file: &File, is_device: bool) -> io::Result<u32> {
    if !is_device {
        return Ok(4096);
    }
    let mut block = 0;
    // SAFETY: the ioctl writes one unsigned int, which is what it is given.
    unsafe { ioctl::physical_block(file.as_raw_fd(), &mut block) }?;
    Ok(block)
}

/// A tag's buffer is addressed by `usize`, and ranges with data are no longer than it.
fn usize_of(bytes: u64) -> usize {
    bytes as usize
}
