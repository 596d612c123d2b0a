//! AES-256-XTS over a run of sectors (IEEE 1619-2007), as dm-crypt's `aes-xts-plain64` has it.
//!
//! A [`Cipher`] holds the expanded keys of one volume in a secret page. Its calls take any number of whole sectors,
//! so that the tweaks of many sectors are computed together, and leave no round key on the stack or in vector
//! registers.
//!
//! | file | what it holds, from the top down |
//! |---|---|
//! | `volume` | the [`Cipher`] of a volume |
//! | `engine` | expanded keys, with the code that they are for |
//! | `kernel` | which code a CPU path is; it alone names those of an architecture |
//! | `portable` | XTS over the `aes` crate, for any CPU |
//! | `x86`, `arm` | a register of blocks, and the expansion of keys, by a CPU's own instructions |
//! | `xts` | XTS over any such register |
//! | `registers` | vector registers set to zero |
//! | `keys`, `run`, `cpu`, `sector` | what all of them name |
//!
//! The tweak of a sector is its LBA on the volume in units of 512 bytes, whatever the sector size (dm-crypt without
//! `iv_large_sectors`), as 64 bits little endian with 64 zero bits above.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm;
mod cpu;
mod engine;
mod kernel;
// Other CPUs have the portable path only, and use none of this.
#[cfg_attr(
    not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))),
    allow(dead_code)
)]
mod keys;
mod portable;
mod registers;
#[cfg_attr(
    not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))),
    allow(dead_code)
)]
mod run;
mod sector;
mod volume;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little")))]
mod xts;

pub use cpu::CpuPath;
pub use registers::scrub_registers;
pub use sector::SectorSize;
pub use volume::Cipher;

use crate::secret::SecretError;

/// Why there is no cipher.
#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    /// The number of bytes is not one of a [`SectorSize`].
    #[error("sector size {0} is neither 512 nor 4096")]
    SectorSize(u32),
    /// The text is not the name of a [`CpuPath`].
    #[error("no CPU path is called \"{0}\"")]
    UnknownPath(String),
    /// The CPU lacks the instructions of the path of this name.
    #[error("this CPU cannot run the cipher's path \"{0}\"")]
    UnavailablePath(&'static str),
    /// The key is none to encrypt with.
    #[error("the key cannot be used")]
    Key(#[source] SecretError),
    /// There is no secret page for the round keys.
    #[error("no memory for round keys")]
    Memory(#[source] SecretError),
}

#[cfg(test)]
mod tests;
