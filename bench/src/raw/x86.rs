//! By AESENC, of whatever width.

use std::arch::asm;

use super::Width;

/// Whether this CPU has the instruction.
pub fn has(width: Width) -> bool {
    match width {
        Width::Bits128 => is_x86_feature_detected!("aes"),
        Width::Bits256 => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx2"),
        Width::Bits512 => is_x86_feature_detected!("vaes") && is_x86_feature_detected!("avx512f"),
    }
}

/// Sends `groups` times twelve registers through all rounds.
///
/// # Safety
/// The CPU must have the instruction.
pub unsafe fn run(width: Width, groups: usize) {
    // SAFETY: the caller's.
    unsafe {
        match width {
            Width::Bits128 => run_128(groups),
            Width::Bits256 => run_256(groups),
            Width::Bits512 => run_512(groups),
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
