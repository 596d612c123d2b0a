//! A request's descriptor, parsed once into an operation over a checked range of sectors.

use crate::cipher::SectorSize;

/// Bytes of the block layer's unit: every LBA and count of this crate is in units of 512 bytes.
pub const LBA_BYTES: u64 = 512;

/// What a request failed with. Small, `Copy`, and only ever turned into an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The operation code is none that this device announced.
    Unsupported,
    /// The range ends behind the end of the device.
    OutOfRange,
    /// The range does not start and end on a sector of the volume.
    Misaligned,
    /// The request carries more data than a tag's buffer holds.
    TooLong,
    /// A write to a device that was opened for reading only.
    ReadOnly,
    /// The backing gave or took fewer bytes than asked, and no more came: it has shrunk or is full.
    ShortTransfer,
    /// The kernel did not get to the operation (EINTR, EAGAIN), and would not within the time that it was given.
    Unfinished,
    /// The backing failed with this errno.
    Backing(i32),
}

impl IoError {
    /// The positive errno that the caller of the device gets.
    pub fn errno(self) -> i32 {
        match self {
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::OutOfRange | Self::Misaligned | Self::TooLong => libc::EINVAL,
            Self::ReadOnly => libc::EROFS,
            Self::ShortTransfer | Self::Unfinished => libc::EIO,
            Self::Backing(errno) => errno,
        }
    }
}

/// A run of whole sectors inside the device; both figures in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SectorRange {
    first: u64,
    count: u32,
}

impl SectorRange {
    /// The range of `count` units from LBA `first`, if it lies on sectors of `shape` and inside of it.
    pub fn new(first: u64, count: u32, shape: &Shape) -> Result<Self, IoError> {
        let unit = shape.sector_size.lbas();
        let end = first.checked_add(u64::from(count)).ok_or(IoError::OutOfRange)?;
        if end > shape.sectors {
            return Err(IoError::OutOfRange);
        }
        if !first.is_multiple_of(unit) || !end.is_multiple_of(unit) {
            return Err(IoError::Misaligned);
        }
        Ok(Self { first, count })
    }

    /// First LBA, in units of 512 bytes.
    pub fn first(self) -> u64 {
        self.first
    }

    /// Offset of the first byte on the device.
    pub fn offset(self) -> u64 {
        self.first * LBA_BYTES
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.count) * LBA_BYTES
    }

    /// The range cut into pieces of at most `limit` bytes, which must be a whole number of sectors.
    pub fn chunks(self, limit: usize) -> impl Iterator<Item = SectorRange> {
        let step = u32::try_from(limit as u64 / LBA_BYTES).unwrap_or(u32::MAX).max(1);
        (0..self.count.div_ceil(step)).map(move |index| {
            let done = index * step;
            Self { first: self.first + u64::from(done), count: step.min(self.count - done) }
        })
    }
}

/// What of a target a request is checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Size of the device in units of 512 bytes.
    pub sectors: u64,
    /// Size of a sector: the smallest unit that is read, written and encrypted.
    pub sector_size: SectorSize,
    /// Bytes of a physical block of the backing, which the device passes up.
    pub physical_block: u32,
    /// Whether discard reaches the backing.
    pub discard: bool,
    /// Whether everything that writes is refused.
    pub read_only: bool,
}

/// A request as the driver describes it: `struct ublksrv_io_desc` of linux/ublk_cmd.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Operation in bits 0 to 7, flags above.
    pub op_flags: u32,
    /// Length in units of 512 bytes.
    pub count: u32,
    /// First LBA in units of 512 bytes.
    pub first: u64,
}

// linux/ublk_cmd.h
pub(crate) const OP_READ: u32 = 0;
pub(crate) const OP_WRITE: u32 = 1;
pub(crate) const OP_FLUSH: u32 = 2;
pub(crate) const OP_DISCARD: u32 = 3;
pub(crate) const OP_WRITE_ZEROES: u32 = 5;
pub(crate) const FLAG_FUA: u32 = 1 << 13;

/// A checked operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fill the buffer from the range.
    Read(SectorRange),
    /// Store the buffer in the range.
    Write {
        /// Where to.
        range: SectorRange,
        /// Whether the data must be on stable storage before the answer.
        fua: bool,
    },
    /// Bring everything that was answered so far to stable storage.
    Flush,
    /// The range's content is no longer needed. A hint: nothing of it need be on stable storage, whatever the flags say.
    Discard(SectorRange),
    /// The range reads as zeros from now on.
    WriteZeroes {
        /// Which one.
        range: SectorRange,
        /// Whether the zeros must be on stable storage before the answer.
        fua: bool,
    },
}

impl Operation {
    /// Checks a descriptor against the device's shape and the bytes that a tag's buffer holds.
    pub fn parse(raw: Descriptor, shape: &Shape, buffer_bytes: usize) -> Result<Self, IoError> {
        let range = || SectorRange::new(raw.first, raw.count, shape);
        let buffered = || match range()? {
            range if range.bytes() > buffer_bytes as u64 => Err(IoError::TooLong),
            range => Ok(range),
        };
        let writable = || if shape.read_only { Err(IoError::ReadOnly) } else { Ok(()) };
        let fua = raw.op_flags & FLAG_FUA != 0;
        match raw.op_flags & 0xff {
            OP_READ => Ok(Self::Read(buffered()?)),
            OP_WRITE => writable().and_then(|()| Ok(Self::Write { range: buffered()?, fua })),
            OP_FLUSH => Ok(Self::Flush),
            OP_DISCARD if shape.discard => writable().and_then(|()| Ok(Self::Discard(range()?))),
            OP_WRITE_ZEROES => writable().and_then(|()| Ok(Self::WriteZeroes { range: range()?, fua })),
            _ => Err(IoError::Unsupported),
        }
    }

    /// Bytes that the answer to the driver names: what was read or written, or 0 for all else.
    pub fn answer(self) -> u32 {
        match self {
            Self::Read(range) | Self::Write { range, .. } => range.count * LBA_BYTES as u32,
            Self::Flush | Self::Discard(_) | Self::WriteZeroes { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        sectors: 1024,
        sector_size: SectorSize::S4096,
        physical_block: 4096,
        discard: false,
        read_only: false,
    };

    fn parse(op_flags: u32, first: u64, count: u32, shape: &Shape) -> Result<Operation, IoError> {
        Operation::parse(Descriptor { op_flags, count, first }, shape, 64 << 10)
    }

    #[test]
    fn ranges_are_checked_to_the_last_sector() {
        assert!(parse(OP_READ, 1016, 8, &SHAPE).is_ok());
        assert_eq!(parse(OP_READ, 1016, 16, &SHAPE), Err(IoError::OutOfRange));
        assert_eq!(parse(OP_READ, u64::MAX - 3, 8, &SHAPE), Err(IoError::OutOfRange));
        assert_eq!(parse(OP_WRITE, 4, 8, &SHAPE), Err(IoError::Misaligned));
        assert_eq!(parse(OP_WRITE, 8, 9, &SHAPE), Err(IoError::Misaligned));
        assert_eq!(parse(OP_READ, 0, 136, &SHAPE), Err(IoError::TooLong));
        assert!(parse(OP_WRITE_ZEROES, 0, 136, &SHAPE).is_ok());
    }

    #[test]
    fn what_was_not_announced_is_refused() {
        assert_eq!(parse(OP_DISCARD, 0, 8, &SHAPE), Err(IoError::Unsupported));
        assert!(parse(OP_DISCARD, 0, 8, &Shape { discard: true, ..SHAPE }).is_ok());
        assert_eq!(parse(4, 0, 8, &SHAPE), Err(IoError::Unsupported));
        let read_only = Shape { read_only: true, discard: true, ..SHAPE };
        for op in [OP_WRITE, OP_DISCARD, OP_WRITE_ZEROES] {
            assert_eq!(parse(op, 0, 8, &read_only), Err(IoError::ReadOnly));
        }
        assert!(parse(OP_READ, 0, 8, &read_only).is_ok());
    }

    #[test]
    fn fua_is_seen() {
        let range = SectorRange { first: 8, count: 8 };
        for (flag, fua) in [(FLAG_FUA, true), (0, false)] {
            assert_eq!(parse(OP_WRITE | flag, 8, 8, &SHAPE), Ok(Operation::Write { range, fua }));
            let zeroes = Ok(Operation::WriteZeroes { range, fua });
            assert_eq!(parse(OP_WRITE_ZEROES | flag, 8, 8, &SHAPE), zeroes);
        }
    }

    #[test]
    fn chunks_cover_the_range_once() {
        let range = SectorRange { first: 16, count: 40 };
        let chunks: Vec<_> = range.chunks(8192).map(|c| (c.first(), c.bytes())).collect();
        assert_eq!(chunks, [(16, 8192), (32, 8192), (48, 4096)]);
    }
}
