//! From the job to what serves the device.

use std::fs::File;
use std::path::Path;

use ublk_targets::backing::{Backing, BackingOptions};
use ublk_targets::cipher::{Cipher, CpuPath, SectorSize};
use ublk_targets::secret::{Dek, LockKind, Secret};
use ublk_targets::target::{Crypt, Null, Plain};

use crate::control::worker::Job;
use crate::control::{Failure, FailureKind, TargetKind};

/// A target, and what may be told of its keys.
pub(super) enum Prepared {
    Null(Null),
    Plain(Plain),
    Crypt(Crypt, Keys),
}

/// What may be told of a worker's keys.
pub(super) struct Keys {
    pub cpu_path: CpuPath,
    pub memory: &'static str,
}

/// Makes the target of `job` on what is open as `backing`, which the daemon has claimed. `dek` is wiped as soon as its round keys
/// are expanded.
pub(super) fn prepare(job: &Job, dek: Option<Secret>, backing: Option<File>) -> Result<Prepared, Failure> {
    let sector_size = SectorSize::try_from(job.sector_size)?;
    match (job.target, backing, dek) {
        (TargetKind::Null, None, None) => Ok(Prepared::Null(Null::new(job.size, sector_size))),
        (TargetKind::Plain, Some(backing), None) => {
            let backing = serve_from(backing, job, sector_size)?;
            Ok(Prepared::Plain(Plain::new(backing, sector_size, job.discards, job.read_only)))
        }
        (TargetKind::Crypt, Some(backing), Some(dek)) => {
            let (cipher, keys) = expand(job, dek, sector_size)?;
            let backing = serve_from(backing, job, sector_size)?;
            Ok(Prepared::Crypt(Crypt::new(backing, cipher, job.discards, job.read_only), keys))
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

fn serve_from(backing: File, job: &Job, sector_size: SectorSize) -> Result<Backing, Failure> {
    let options = BackingOptions {
        offset: job.data_offset,
        length: Some(job.size),
        sector_size,
        read_only: job.read_only,
    };
    let path = job.backing.as_deref().unwrap_or(Path::new("the backing"));
    Ok(Backing::new(backing, path, &options)?)
}
