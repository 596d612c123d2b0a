//! The expanded keys of a volume, together with the code that they are expanded for.

use aes::cipher::inout::InOutBuf;

use super::kernel::Kernel;
use super::keys::RoundKeys;
use super::registers::scrub_registers;
use super::run::{Direction, Run};
use super::{CipherError, CpuPath, SectorSize, portable};
use crate::secret::{SecretBox, scrub_stack};

/// More bytes of stack than the expansion of keys uses; a test measures it, as it does the next two.
pub(super) const EXPANSION_STACK: usize = 16 * 1024;
/// More bytes of stack than the portable path uses.
pub(super) const PORTABLE_STACK: usize = 16 * 1024;
/// More bytes of stack than a kernel uses; below 2 KiB, from where on glibc clears memory by string instructions,
/// whose start costs a small request several nanoseconds.
pub(super) const KERNEL_STACK: usize = 1920;

/// Round keys in a secret page, and the kernel that uses them.
pub(super) enum Engine {
    Portable(SecretBox<portable::Keys>),
    Kernel(SecretBox<RoundKeys>, Kernel),
}

impl Engine {
    /// Expands the 64 bytes of a data encryption key for `path`.
    pub(super) fn new(dek: &[u8], path: CpuPath) -> Result<Self, CipherError> {
        if !path.is_available() {
            return Err(CipherError::UnavailablePath(path.name()));
        }
        let engine = Self::expand(dek, path);
        scrub_stack::<EXPANSION_STACK>();
        engine
    }

    #[inline(never)]
    pub(super) fn expand(dek: &[u8], path: CpuPath) -> Result<Self, CipherError> {
        match Kernel::of(path) {
            Some(kernel) => kernel.expand(dek).map(|keys| Self::Kernel(keys, kernel)),
            None => portable::expand(dek).map(Self::Portable),
        }
        .map_err(CipherError::Memory)
    }

    /// Encrypts or decrypts whole sectors.
    pub(super) fn run(
        &self,
        direction: Direction,
        size: SectorSize,
        first_lba: u64,
        data: InOutBuf<'_, '_, u8>,
    ) {
        match self {
            Self::Portable(keys) => portable::run(keys.get(), direction, size, first_lba, data),
            Self::Kernel(keys, kernel) => {
                let sectors = data.len() / size.bytes();
                let (source, target) = data.into_raw();
                let run = Run { source, target, sectors, sector_size: size, first_lba };
                // SAFETY: `data` was borrowed for `sectors` sectors, and is one buffer or two that do not overlap.
                unsafe { kernel.run(keys.get(), direction, run) };
            }
        }
    }

    /// Overwrites what [`run`](Self::run) left of keys, tweaks and data on the stack below the caller's frame and in
    /// vector registers.
    #[inline(always)]
    pub(super) fn scrub(&self) {
        match self {
            Self::Portable(_) => scrub_stack::<PORTABLE_STACK>(),
            Self::Kernel(..) => scrub_stack::<KERNEL_STACK>(),
        }
        scrub_registers();
    }
}
