//! Drives the targets in-process against a file, with no kernel driver, and says what the cipher costs in the path.
//!
//! `plain`, `crypt` and the cipher alone take turns in each round, so that a machine whose speed drifts does so for all of
//! them; medians over the rounds count, and ratios of medians.

mod load;
mod qemu;
mod workload;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ublk_targets::backing::{Backing, BackingOptions};
use ublk_targets::cipher::{Cipher, CpuPath, SectorSize};
use ublk_targets::secret::Dek;
use ublk_targets::target::{Crypt, Plain};

use crate::median::median;
pub use load::Done;
pub use qemu::Qemu;
pub use workload::{Workload, WorkloadError};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A file without a name to work on: it ends with this process, however that ends.
pub struct Scratch {
    file: File,
    bytes: u64,
}

impl Scratch {
    /// A new file of `bytes` bytes on the file system of `dir`, every one of them written.
    pub fn create(dir: &Path, bytes: u64) -> io::Result<Self> {
        let mut file = tempfile::tempfile_in(dir)?;
        io::copy(&mut io::repeat(0x5a).take(bytes), &mut file)?;
        // What is still to be written to a disk would be written during the first measurement.
        file.sync_all()?;
        Ok(Self { file, bytes })
    }

    /// By this, this process opens it once more.
    fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// How a workload is measured.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of a sector.
    pub sector_size: SectorSize,
    /// How AES is computed; the fastest way unless given.
    pub cpu_path: Option<CpuPath>,
    /// Rounds that medians are taken of.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub seconds: f64,
}

/// Medians of all rounds.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Of the target that passes everything on.
    pub plain: Done,
    /// Of the target that encrypts.
    pub crypt: Done,
    /// Of the cipher alone.
    pub cipher: Done,
    /// Requests a second of `plain` with QEMU's LUKS driver on top of it, where that was measured.
    pub qemu: Option<f64>,
}

impl Outcome {
    /// Requests a second that `plain` and the cipher allow one after the other.
    pub fn series(&self) -> f64 {
        1.0 / (1.0 / self.plain.rate + 1.0 / self.cipher.rate)
    }

    /// The processor time of `plain` and the cipher, as a part of what `crypt` takes. Other work on the machine, which
    /// changes rates, hardly changes this.
    pub fn efficiency(&self) -> f64 {
        (self.plain.cpu + self.cipher.cpu) / self.crypt.cpu
    }
}

/// Measures one workload on `file`. Fails where its requests are not whole sectors.
pub fn measure(
    file: &Scratch,
    workload: Workload,
    settings: &Settings,
    qemu: Option<&Qemu>,
) -> Result<Outcome> {
    let Settings { sector_size, cpu_path, rounds, seconds } = *settings;
    if !(workload.block as usize).is_multiple_of(sector_size.bytes()) {
        return Err(format!("{workload}: a request is not whole sectors of {sector_size} bytes").into());
    }
    let dek = Dek::generate()?;
    let cipher = || Cipher::new(&dek, sector_size, cpu_path);
    let options = BackingOptions { offset: 0, length: None, sector_size, read_only: false };
    let backing = || Backing::open(&file.path(), &options);
    let plain_target = Plain::new(backing()?, sector_size, false, false);
    let crypt_target = Crypt::new(backing()?, cipher()?, false, false);
    let alone = cipher()?;
    let (mut plain, mut crypt, mut ciphers, mut added) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        plain.push(load::of_target(&plain_target, workload, seconds)?);
        crypt.push(load::of_target(&crypt_target, workload, seconds)?);
        ciphers.push(load::of_cipher(&alone, workload, seconds / 4.0)?);
        if let Some(qemu) = qemu {
            added.push(qemu.seconds_added(workload, file.bytes)?);
        }
    }
    let plain = medians(&plain);
    let qemu = qemu.map(|_| 1.0 / (1.0 / plain.rate + median(added)));
    Ok(Outcome { plain, crypt: medians(&crypt), cipher: medians(&ciphers), qemu })
}

fn medians(rounds: &[Done]) -> Done {
    let of = |part: fn(&Done) -> f64| median(rounds.iter().map(part));
    Done { rate: of(|done| done.rate), cpu: of(|done| done.cpu) }
}
