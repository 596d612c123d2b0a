//! The code of each CPU path: [`xts`](super::xts), written over a register of blocks, with the register of an architecture.

use super::CpuPath;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
use super::arm;
use super::keys::RoundKeys;
use super::registers::scrub_registers;
use super::run::{Direction, Run};
#[cfg(target_arch = "x86_64")]
use super::x86;
use crate::secret::{SecretBox, SecretError};

/// Expands the 64 bytes of a data encryption key; compiled for an instruction set.
type Expand = unsafe fn(&[u8], &mut RoundKeys);
/// Encrypts or decrypts a run; compiled for an instruction set.
type Function = unsafe fn(&RoundKeys, Run);

/// What one CPU path calls.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    expand: Expand,
    encrypt: Function,
    decrypt: Function,
}

impl Kernel {
    /// The kernel of `path`, where it has one and this CPU has its instructions.
    pub(super) fn of(path: CpuPath) -> Option<Self> {
        path.is_available().then_some(())?;
        #[cfg(target_arch = "x86_64")]
        let kernel =
            |encrypt: Function, decrypt: Function| Some(Self { expand: x86::keys::expand, encrypt, decrypt });
        match path {
            #[cfg(target_arch = "x86_64")]
            CpuPath::AesNi => kernel(x86::aesni::encrypt, x86::aesni::decrypt),
            #[cfg(target_arch = "x86_64")]
            CpuPath::Vaes256 => kernel(x86::vaes256::encrypt, x86::vaes256::decrypt),
            #[cfg(target_arch = "x86_64")]
            CpuPath::Vaes512 => kernel(x86::vaes512::encrypt, x86::vaes512::decrypt),
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            CpuPath::Neon => Some(Self {
                expand: arm::keys::expand,
                encrypt: arm::neon::encrypt,
                decrypt: arm::neon::decrypt,
            }),
            // The portable path, and those of other architectures.
            _ => None,
        }
    }

    /// Expands the 64 bytes of a data encryption key into a secret page. The caller scrubs the stack.
    #[inline(never)]
    pub(super) fn expand(self, dek: &[u8]) -> Result<SecretBox<RoundKeys>, SecretError> {
        // SAFETY: the page is zero to begin with, and all zeros are valid round keys, so that a reference to the slot
        // is sound; all of it is then written. Round keys own no other memory. `of` made sure of the CPU.
        let expanded = unsafe { SecretBox::new_with(|slot| (self.expand)(dek, slot.assume_init_mut())) };
        // As `portable::expand` does.
        scrub_registers();
        expanded
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
