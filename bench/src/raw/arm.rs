//! By AESE and AESMC in pairs, which many CPUs run as one.

use std::arch::{asm, is_aarch64_feature_detected};

use super::Width;

/// Whether this CPU has the instructions.
pub fn has(width: Width) -> bool {
    width == Width::Bits128 && is_aarch64_feature_detected!("aes")
}

/// Sends `groups` times twelve registers through all rounds.
///
/// # Safety
/// The CPU must have the instructions.
pub unsafe fn run(_: Width, groups: usize) {
    // SAFETY: the caller's.
    unsafe { run_128(groups) }
}

/// The last round has no AESMC, but adds the last round key.
#[target_feature(enable = "aes")]
unsafe fn run_128(groups: usize) {
    // SAFETY: register operations only; the key is whatever register 31 holds.
    unsafe {
        asm!(
            "2:",
            ".rept 13",
            ".irp v, v0.16b, v1.16b, v2.16b, v3.16b, v4.16b, v5.16b, v6.16b, v7.16b, v8.16b, v9.16b, v10.16b, v11.16b",
            "aese \\v, v31.16b",
            "aesmc \\v, \\v",
            ".endr",
            ".endr",
            ".irp v, v0.16b, v1.16b, v2.16b, v3.16b, v4.16b, v5.16b, v6.16b, v7.16b, v8.16b, v9.16b, v10.16b, v11.16b",
            "aese \\v, v31.16b",
            "eor \\v, \\v, v31.16b",
            ".endr",
            "subs {groups}, {groups}, #1",
            "b.ne 2b",
            groups = inout(reg) groups => _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _,
            out("v6") _, out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            options(nomem, nostack),
        );
    }
}
