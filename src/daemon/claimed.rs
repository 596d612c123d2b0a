//! A volume's backing as the daemon holds it: opened and claimed once, for as long as there is a device.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::control::Failure;
use crate::control::worker::Job;
use crate::identity::{self, FileId};
use crate::luks::{self, Access, Files, Header, LuksError, Place};

/// A claimed backing. The claim ends when the last clone, here and in workers, is gone.
#[derive(Clone)]
pub(super) struct Claimed {
    /// The open file description that is claimed, and that workers serve from.
    pub file: Arc<File>,
    /// What it is.
    pub id: FileId,
    is_read_only: bool,
}

impl Claimed {
    /// Claims what `path` leads to now: to read and write, or beside others that only read.
    pub fn take(path: &Path, is_read_only: bool) -> Result<Self, Failure> {
        let file = if is_read_only { luks::claim_to_read(path) } else { luks::claim(path, 0) }?;
        Ok(Self::of(file, path, is_read_only)?)
    }

    /// What a worker has claimed on this job.
    pub fn of_worker(file: File, job: &Job) -> Result<Self, Failure> {
        let path = job.backing.as_deref().unwrap_or(Path::new("the backing"));
        Ok(Self::of(file, path, job.read_only)?)
    }

    fn of(file: File, path: &Path, is_read_only: bool) -> Result<Self, LuksError> {
        let id = FileId::of(&file).map_err(|error| LuksError::io("look at", path, error))?;
        Ok(Self { file: Arc::new(file), id, is_read_only })
    }

    /// The header of the volume at `place`, whose backing this is, whatever its path leads to by now. A damaged copy of it is
    /// repaired where the claim is one to write.
    pub fn header(&self, place: &Place) -> Result<Header, LuksError> {
        // With flags and an offset of its own: workers have theirs go past the page cache.
        let backing = identity::reopen_to_read(&self.file);
        let backing = backing.map_err(|error| LuksError::io("open", &place.backing, error))?;
        let files = Files::of_backing(backing, place)?;
        if self.is_read_only {
            luks::open_to_read(place, files)
        } else {
            luks::open_by(place, Access::Through(Arc::new(files)))
        }
    }
}
