//! What the kernels of x86-64 have of their own: three kinds of register, and the expansion of keys.

pub(super) mod aesni;
pub(super) mod keys;
pub(super) mod vaes256;
pub(super) mod vaes512;

/// Multiplication by alpha to the power of 16, the blocks of a group with VAES, begins with a rotation by two bytes, which
/// brings the bytes moved out at the top to the bottom: these.
const CARRY: [u8; 16] = 0xFFFF_u128.to_le_bytes();
