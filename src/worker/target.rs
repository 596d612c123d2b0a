//! From the job to what serves the device.

use std::fs::File;
use std::path::{Path, PathBuf};

use ublk_targets::backing::{Backing, BackingOptions};
use ublk_targets::cipher::{Cipher, CpuPath, SectorSize};
use ublk_targets::secret::{Dek, LockKind, Secret};
use ublk_targets::target::{Crypt, Null, Plain};

use crate::control::worker::Job;
use crate::control::{Failure, FailureKind, TargetKind};
use crate::luks;

/// A target, and the claim that keeps others from its backing while it lives.
pub(super) enum Prepared {
    Null(Null),
    Plain(Plain, File),
    Crypt(Crypt, Keys, File),
}

/// What may be told of a worker's keys.
pub(super) struct Keys {
    pub cpu_path: CpuPath,
    pub memory: &'static str,
}

/// Claims and opens what `job` names. `dek` is wiped as soon as its round keys are expanded.
pub(super) fn prepare(job: &Job, dek: Option<Secret>) -> Result<Prepared, Failure> {
    let sector_size = SectorSize::try_from(job.sector_size)?;
    match (job.target, &job.backing, dek) {
        (TargetKind::Null, None, None) => Ok(Prepared::Null(Null::new(job.size, sector_size))),
        (TargetKind::Plain, Some(path), None) => {
            let (backing, claim) = open(job, path, sector_size)?;
            Ok(Prepared::Plain(Plain::new(backing, sector_size, job.discards, job.read_only), claim))
        }
        (TargetKind::Crypt, Some(path), Some(dek)) => {
            let (cipher, keys) = expand(job, dek, sector_size)?;
            let (backing, claim) = open(job, path, sector_size)?;
            Ok(Prepared::Crypt(Crypt::new(backing, cipher, job.discards, job.read_only), keys, claim))
        }
        _ => Err(Failure::new(FailureKind::Protocol, "the job's target, backing and key do not go together")),
    }
}

fn expand(job: &Job, dek: Secret, sector_size: SectorSize) -> Result<(Cipher, Keys), Failure> {
    let memory = match dek.kind() {
        LockKind::MemfdSecret => "memfd_secret",
        LockKind::Mlock => "mlock",
    };
    let dek = Dek::from_secret(dek)?;
    let cpu_path = job.cpu_path.as_deref().map(str::parse).transpose()?;
    let cipher = Cipher::new(&dek, sector_size, cpu_path)?;
    let keys = Keys { cpu_path: cipher.cpu_path(), memory };
    Ok((cipher, keys))
}

fn open(job: &Job, path: &PathBuf, sector_size: SectorSize) -> Result<(Backing, File), Failure> {
    let claim = luks::claim(Path::new(path), 0)?;
    let options = BackingOptions {
        offset: job.data_offset,
        length: Some(job.size),
        sector_size,
        read_only: job.read_only,
    };
    Ok((Backing::open(path, &options)?, claim))
}
