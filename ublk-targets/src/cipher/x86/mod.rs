//! AES-256-XTS on x86-64: one algorithm ([`xts`]), written over a register of blocks, and three kinds of register.

mod aesni;
mod keys;
mod vaes256;
mod vaes512;
mod xts;

pub(super) use keys::{RoundKeys, expand};

use super::engine::Direction;
use super::{CpuPath, SectorSize};

/// The sectors that one call works on. Source and target are the same memory, or do not overlap.
pub(super) struct Run {
    pub source: *const u8,
    pub target: *mut u8,
    pub sectors: usize,
    pub sector_size: SectorSize,
    pub first_lba: u64,
}

/// A function of one instruction set, compiled for it.
type Function = unsafe fn(&RoundKeys, Run);

/// What one CPU path calls for each direction.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    encrypt: Function,
    decrypt: Function,
}

impl Kernel {
    /// The kernel of `path`, where that is a path of x86-64 and this CPU has its instructions.
    pub(super) fn of(path: CpuPath) -> Option<Self> {
        path.is_available().then_some(())?;
        match path {
            CpuPath::Portable => None,
            CpuPath::AesNi => Some(Self { encrypt: aesni::encrypt, decrypt: aesni::decrypt }),
            CpuPath::Vaes256 => Some(Self { encrypt: vaes256::encrypt, decrypt: vaes256::decrypt }),
            CpuPath::Vaes512 => Some(Self { encrypt: vaes512::encrypt, decrypt: vaes512::decrypt }),
        }
    }

    /// Encrypts or decrypts a run of sectors. The caller scrubs stack and registers.
    ///
    /// # Safety
    /// `run` describes readable and writable memory for all its sectors.
    pub(super) unsafe fn run(self, keys: &RoundKeys, direction: Direction, run: Run) {
        // SAFETY: `of` made sure of the CPU; the caller answers for the memory.
        unsafe {
            match direction {
                Direction::Encrypt => (self.encrypt)(keys, run),
                Direction::Decrypt => (self.decrypt)(keys, run),
            }
        }
    }
}
