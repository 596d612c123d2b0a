//! The rate of AES-256 itself: independent blocks through the AES instruction from register to register, without
//! memory, tweaks or a mode. No cipher that uses the same instruction can be faster.

use std::arch::asm;

/// A width of the AES instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// AES-NI: one block.
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
        match self {
            Self::Bits128 => is_x86_feature_detected!("aes"),
            Self::Bits256 => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2"),
            Self::Bits512 => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx512f"),
        }
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
        unsafe {
            match self {
                Self::Bits128 => run_128(groups),
                Self::Bits256 => run_256(groups),
                Self::Bits512 => run_512(groups),
            }
        }
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

/// `$groups` times the 14 rounds of twelve registers; the key is whatever register 15 holds.
macro_rules! rounds {
    ($groups:expr, $round:literal, $last:literal) => {
        asm!(
            "2:",
            ".rept 13",
            concat!(".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n", $round, "\n.endr"),
            ".endr",
            concat!(".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n", $last, "\n.endr"),
            "dec {groups}",
            "jnz 2b",
            groups = inout(reg) $groups => _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            options(nomem, nostack),
        )
    };
}

#[target_feature(enable = "aes")]
unsafe fn run_128(groups: usize) {
    // SAFETY: register operations only.
    unsafe { rounds!(groups, "aesenc xmm\\n, xmm15", "aesenclast xmm\\n, xmm15") }
}

#[target_feature(enable = "avx2,vaes")]
unsafe fn run_256(groups: usize) {
    // SAFETY: register operations only.
    unsafe { rounds!(groups, "vaesenc ymm\\n, ymm\\n, ymm15", "vaesenclast ymm\\n, ymm\\n, ymm15") }
}

#[target_feature(enable = "avx512f,vaes")]
unsafe fn run_512(groups: usize) {
    // SAFETY: register operations only.
    unsafe { rounds!(groups, "vaesenc zmm\\n, zmm\\n, zmm15", "vaesenclast zmm\\n, zmm\\n, zmm15") }
}
