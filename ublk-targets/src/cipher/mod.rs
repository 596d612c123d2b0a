//! AES-256-XTS over a run of sectors (IEEE 1619-2007), as dm-crypt's `aes-xts-plain64` has it.
//!
//! A [`Cipher`] holds the expanded keys of one volume in a secret page. Its calls take any number of whole sectors,
//! so that the tweaks of many sectors are computed together, and leave no round key on the stack or in vector
//! registers.
//!
//! The tweak of a sector is its LBA on the volume in units of 512 bytes, whatever the sector size (dm-crypt without
//! `iv_large_sectors`), as 64 bits little endian with 64 zero bits above.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod arm;
mod cpu;
mod engine;
// Other CPUs have the portable path only, and call none of this.
#[cfg_attr(
    not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))),
    allow(dead_code)
)]
mod kernel;
mod portable;
mod registers;
mod sector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use cpu::CpuPath;
pub use sector::SectorSize;

use aes::cipher::inout::InOutBuf;

use crate::secret::{Dek, SecretError};
use engine::{Direction, Engine};

/// Why there is no cipher.
#[derive(Debug, thiserror::Error)]
pub enum CipherError {
    /// The number of bytes is not one of a [`SectorSize`].
    #[error("sector size {0} is neither 512 nor 4096")]
    SectorSize(u32),
    /// The text is not the name of a [`CpuPath`].
    #[error("no CPU path is called \"{0}\"")]
    UnknownPath(String),
    /// The CPU lacks the instructions of the path that was asked for.
    #[error("this CPU cannot run the cipher's path \"{0}\"")]
    UnavailablePath(CpuPath),
    /// The key is none to encrypt with.
    #[error("the key cannot be used")]
    Key(#[source] SecretError),
    /// There is no secret page for the round keys.
    #[error("no memory for round keys")]
    Memory(#[source] SecretError),
}

/// AES-256-XTS with one volume's keys.
pub struct Cipher {
    engine: Engine,
    sector_size: SectorSize,
    cpu_path: CpuPath,
}

impl Cipher {
    /// Expands `dek` (bytes 0 to 31: data key; 32 to 63: tweak key) for sectors of `sector_size`.
    ///
    /// `path` is the way to compute AES; `None` takes the fastest that this CPU has. Fails where the CPU lacks the
    /// path, where no secret page is to be had, or where the key fails its [check](Dek::check).
    pub fn new(dek: &Dek, sector_size: SectorSize, path: Option<CpuPath>) -> Result<Self, CipherError> {
        dek.check().map_err(CipherError::Key)?;
        let cpu_path = path.unwrap_or_else(CpuPath::detect);
        Ok(Self { engine: Engine::new(dek.expose(), cpu_path)?, sector_size, cpu_path })
    }

    /// The size of the sectors that this cipher works on.
    pub fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    /// The way that AES is computed.
    pub fn cpu_path(&self) -> CpuPath {
        self.cpu_path
    }

    /// Encrypts `data` in place: whole sectors in sequence, the first one at `first_lba` (units of 512 bytes).
    ///
    /// # Panics
    /// When the length of `data` is not a multiple of the sector size.
    pub fn encrypt(&self, first_lba: u64, data: &mut [u8]) {
        self.run(Direction::Encrypt, first_lba, data.into());
    }

    /// Decrypts `data` in place, as [`encrypt`](Self::encrypt) does the opposite.
    ///
    /// # Panics
    /// When the length of `data` is not a multiple of the sector size.
    pub fn decrypt(&self, first_lba: u64, data: &mut [u8]) {
        self.run(Direction::Decrypt, first_lba, data.into());
    }

    /// Encrypts the sectors in `source` into `target`, at no more cost than in place.
    ///
    /// # Panics
    /// When the lengths differ or are not a multiple of the sector size.
    pub fn encrypt_to(&self, first_lba: u64, source: &[u8], target: &mut [u8]) {
        self.run(Direction::Encrypt, first_lba, pair(source, target));
    }

    /// Decrypts the sectors in `source` into `target`, at no more cost than in place.
    ///
    /// # Panics
    /// When the lengths differ or are not a multiple of the sector size.
    pub fn decrypt_to(&self, first_lba: u64, source: &[u8], target: &mut [u8]) {
        self.run(Direction::Decrypt, first_lba, pair(source, target));
    }

    fn run(&self, direction: Direction, first_lba: u64, data: InOutBuf<'_, '_, u8>) {
        assert!(
            data.len().is_multiple_of(self.sector_size.bytes()),
            "{} bytes are not whole sectors of {}",
            data.len(),
            self.sector_size
        );
        self.engine.run(direction, self.sector_size, first_lba, data);
        self.engine.scrub();
    }
}

fn pair<'a, 'b>(source: &'a [u8], target: &'b mut [u8]) -> InOutBuf<'a, 'b, u8> {
    match InOutBuf::new(source, target) {
        Ok(pair) => pair,
        Err(_) => panic!("source and target of a cipher run differ in length"),
    }
}

#[cfg(test)]
mod tests;
