//! What the kernel of 64-bit ARM has of its own: its register, and the expansion of keys. Blocks are numbers of little
//! endian here, and so is the CPU.

pub(super) mod keys;
pub(super) mod neon;
