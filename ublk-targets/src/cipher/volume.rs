//! The cipher of a volume: its keys, and its sectors.

use aes::cipher::inout::InOutBuf;

use super::engine::Engine;
use super::registers::scrub_registers;
use super::run::Direction;
use super::{CipherError, CpuPath, SectorSize};
use crate::secret::Dek;

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
        let checked = dek.check();
        // What was compared must not be there for the compiler to fill gaps of a value with.
        scrub_registers();
        checked.map_err(CipherError::Key)?;
        let cpu_path = path.unwrap_or_else(CpuPath::detect);
        Self::of_any_key(dek.expose(), sector_size, cpu_path)
    }

    /// The same for 64 bytes that nobody has looked at.
    pub(super) fn of_any_key(
        key: &[u8],
        sector_size: SectorSize,
        cpu_path: CpuPath,
    ) -> Result<Self, CipherError> {
        Ok(Self { engine: Engine::new(key, cpu_path)?, sector_size, cpu_path })
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
