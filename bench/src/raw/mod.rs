//! The rate of AES-256 itself: independent blocks through the AES instruction from register to register, without
//! memory, tweaks or a mode. No cipher that uses the same instruction can be faster.

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
use arm as cpu;
#[cfg(target_arch = "x86_64")]
use x86 as cpu;

/// A width of the AES instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// AES-NI, or AESE and AESMC: one block.
    Bits128,
    /// VAES: two blocks.
    Bits256,
    /// VAES on AVX-512: four blocks.
    Bits512,
}

/// Registers in flight: more than any CPU needs to hide the latency of the instruction.
const IN_FLIGHT: usize = 12;

impl Width {
    /// Every width, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Bits128, Self::Bits256, Self::Bits512];

    /// The widest instruction that this CPU has, if it has any.
    pub fn widest() -> Option<Self> {
        Self::ALL.into_iter().rev().find(|width| width.is_available())
    }

    /// Whether this CPU has the instruction.
    pub fn is_available(self) -> bool {
        cpu::has(self)
    }

    /// Sends at least `bytes` bytes of blocks through all 14 rounds; says how many exactly.
    ///
    /// # Panics
    /// Where the CPU lacks the instruction.
    pub fn run(self, bytes: usize) -> usize {
        assert!(self.is_available(), "this CPU has no AES instruction of {self:?}");
        let group = IN_FLIGHT * self.bytes();
        let groups = bytes.div_ceil(group);
        // SAFETY: the CPU has the instruction.
        unsafe { cpu::run(self, groups) }
        groups * group
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Bits128 => 16,
            Self::Bits256 => 32,
            Self::Bits512 => 64,
        }
    }
}
