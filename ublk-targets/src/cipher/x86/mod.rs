//! What the kernels of x86-64 have of their own: three kinds of register, and the expansion of keys.

pub(super) mod aesni;
pub(super) mod keys;
pub(super) mod vaes256;
pub(super) mod vaes512;

/// Multiplication by alpha to the power of `blocks`, a multiple of 8, begins with a rotation by whole bytes, which
/// brings the bytes moved out at the top to the bottom: where each byte comes from.
const fn rotation(blocks: usize) -> [u8; 16] {
    let mut from = [0; 16];
    let mut byte = 0;
    while byte < 16 {
        from[byte] = ((16 - blocks / 8 + byte) % 16) as u8;
        byte += 1;
    }
    from
}

/// The bytes that such a rotation brings to the bottom.
const fn carry_mask(blocks: usize) -> [u8; 16] {
    ((1u128 << blocks) - 1).to_le_bytes()
}
