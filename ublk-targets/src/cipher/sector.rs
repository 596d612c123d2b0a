//! The two sector sizes a volume can have.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::CipherError;

/// Bytes of a volume's encryption sector: each sector has one tweak (a LUKS2 segment's `sector_size`).
///
/// Written as the number of bytes, in text and in serialized form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub enum SectorSize {
    /// 512 bytes.
    S512,
    /// 4096 bytes, the default.
    #[default]
    S4096,
}

impl SectorSize {
    /// Bytes of a sector.
    pub const fn bytes(self) -> usize {
        1 << self.shift()
    }

    /// The binary logarithm of [`bytes`](Self::bytes).
    pub const fn shift(self) -> u32 {
        match self {
            Self::S512 => 9,
            Self::S4096 => 12,
        }
    }

    /// How many units of 512 bytes, in which LBAs are counted, a sector has.
    pub const fn lbas(self) -> u64 {
        1 << (self.shift() - 9)
    }
}

impl TryFrom<u32> for SectorSize {
    type Error = CipherError;

    /// Fails unless `bytes` is 512 or 4096.
    fn try_from(bytes: u32) -> Result<Self, CipherError> {
        match bytes {
            512 => Ok(Self::S512),
            4096 => Ok(Self::S4096),
            _ => Err(CipherError::SectorSize(bytes)),
        }
    }
}

impl From<SectorSize> for u32 {
    fn from(size: SectorSize) -> Self {
        1 << size.shift()
    }
}

impl fmt::Display for SectorSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().fmt(f)
    }
}
