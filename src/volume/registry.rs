//! The volumes that this host knows. A volume is its UUID; its name and its paths are what it has.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use super::VolumeError;
use super::known::{Forgotten, Known, KnownVolumes};
use super::volumes_file;
use crate::atomic_file;
use crate::luks::{Header, Place};

const FILE_NAME: &str = "volumes.toml";
const FILE_LIMIT: u64 = 64 << 20;

/// The known volumes; each change is on disk before the call that makes it returns. A volume leaves by [`Registry::remove`] and
/// [`Registry::forget`] alone.
pub struct Registry {
    path: PathBuf,
    known: Mutex<Arc<KnownVolumes>>,
    /// Held while the file is written, which takes what the disk takes; who reads does not wait for it.
    writing: Mutex<()>,
}

impl Registry {
    /// The volumes that `volumes.toml` in `directory` names; none if there is no such file.
    pub fn load(directory: &Path) -> Result<Self, VolumeError> {
        let path = directory.join(FILE_NAME);
        let known = match atomic_file::read_limited(&path, FILE_LIMIT) {
            Ok(bytes) => volumes_file::parse(&bytes)
                .map_err(|problem| VolumeError::Registry { path: path.clone(), problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => KnownVolumes::default(),
            Err(source) => return Err(VolumeError::Io { action: "read", path, source }),
        };
        Ok(Self { path, known: Mutex::new(Arc::new(known)), writing: Mutex::new(()) })
    }

    /// What is known now. Looking at it takes no lock.
    pub fn known(&self) -> Arc<KnownVolumes> {
        Arc::clone(&self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Enters a volume. Refused where another has its name, and where it is known.
    pub fn insert(&self, new: Known) -> Result<(), VolumeError> {
        self.change(|known| {
            let has_name = known.get(&new.name).cloned();
            if let Some(other) = has_name.or_else(|| known.by_uuid(new.uuid).cloned()) {
                return Err(VolumeError::NameTaken { name: other.name, backing: other.backing });
            }
            known.forgotten.remove(&new.uuid);
            known.volumes.insert(new.uuid, new);
            Ok(())
        })
    }

    /// Remembers the KEK that the header of a volume says. What this host does not know stays unknown.
    pub fn update(&self, header: &Header) -> Result<(), VolumeError> {
        self.change_one(header.uuid, |volume| {
            volume.provider = header.token.provider.clone();
            volume.kek_id = header.token.kek_id.clone();
        })
    }

    /// Remembers that the key in the volume's token was seen to be that of this header.
    pub fn verified(&self, header: &Header) -> Result<(), VolumeError> {
        self.change_one(header.uuid, |volume| volume.digest = Some(header.digest.clone()))
    }

    /// Remembers where a volume is now.
    pub fn moved(&self, uuid: Uuid, place: &Place) -> Result<(), VolumeError> {
        self.change_one(uuid, |volume| volume.set_place(place))
    }

    /// Ends what is known of a volume that is nobody's to open any more, or not by blkseal.
    pub fn remove(&self, uuid: Uuid) -> Result<(), VolumeError> {
        self.change(|known| {
            known.volumes.remove(&uuid);
            Ok(())
        })
    }

    /// Ends what is known of a volume, but for the KEK that it may still need one day; `for_good`, of that as well.
    pub fn forget(&self, uuid: Uuid, for_good: bool) -> Result<(), VolumeError> {
        self.change(|known| {
            if let Some(volume) = known.volumes.remove(&uuid) {
                known.forgotten.insert(uuid, Forgotten::from(volume));
            }
            if for_good {
                known.forgotten.remove(&uuid);
            }
            Ok(())
        })
    }

    fn change_one(&self, uuid: Uuid, change: impl FnOnce(&mut Known)) -> Result<(), VolumeError> {
        self.change(|known| {
            if let Some(volume) = known.volumes.get_mut(&uuid) {
                change(volume);
            }
            Ok(())
        })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut KnownVolumes) -> Result<(), VolumeError>,
    ) -> Result<(), VolumeError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known();
        let mut after = KnownVolumes::clone(&before);
        change(&mut after)?;
        if after == *before {
            return Ok(());
        }
        let text = volumes_file::text(&after)
            .map_err(|problem| VolumeError::Registry { path: self.path.clone(), problem })?;
        atomic_file::replace(&self.path, text.as_bytes()).map_err(|source| VolumeError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
        Ok(())
    }
}
