//! What this host knows of its volumes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Part;
use crate::identity::FileId;
use crate::luks::{Place, Placement, Token};
use crate::name::Name;
use crate::provider::{KekId, ProviderName};

/// What this host remembers of a volume. The header is what counts; provider and KEK are what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The UUID in its header: what it is.
    pub uuid: Uuid,
    /// What people call it here.
    pub name: Name,
    /// The block device or file that holds its data, by a name that leads to no other disk where there is such a name.
    pub backing: PathBuf,
    /// The file that holds its header; none where that lies before the data.
    pub header: Option<PathBuf>,
    /// The provider of its KEK.
    pub provider: ProviderName,
    /// Its KEK.
    pub kek_id: KekId,
    /// The fingerprint of the header's digest that its key was last checked against; none where it was not since this is kept.
    pub digest: Option<String>,
}

impl Known {
    /// A volume at `place` with this token.
    pub fn new(name: Name, uuid: Uuid, place: &Place, token: &Token) -> Self {
        let mut volume = Self {
            uuid,
            name,
            backing: PathBuf::new(),
            header: None,
            provider: token.provider.clone(),
            kek_id: token.kek_id.clone(),
            digest: None,
        };
        volume.set_place(place);
        volume
    }

    /// Where the volume is.
    pub fn place(&self) -> Place {
        match &self.header {
            None => Place::attached(&self.backing),
            Some(header) => Place::detached(&self.backing, header),
        }
    }

    pub(super) fn set_place(&mut self, place: &Place) {
        self.backing.clone_from(&place.backing);
        self.header = match &place.header {
            Placement::Attached => None,
            Placement::Detached(path) => Some(path.clone()),
        };
    }

    /// What `path` is to this volume: by the text, for a disk may be away, or because it leads to the same device or file.
    /// This looks at the disk.
    pub fn part_at(&self, path: &Path) -> Option<Part> {
        let parts = [(Some(&self.backing), Part::Backing), (self.header.as_ref(), Part::Header)];
        parts.into_iter().find_map(|(known, part)| same_file(known?, path).then_some(part))
    }
}

/// What is left of a volume that this host was told to forget: a disk with it may turn up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// What it was called.
    pub name: Name,
    /// The provider of its KEK.
    pub provider: ProviderName,
    /// Its KEK.
    pub kek_id: KekId,
}

impl From<Known> for Forgotten {
    fn from(volume: Known) -> Self {
        Self { name: volume.name, provider: volume.provider, kek_id: volume.kek_id }
    }
}

/// The volumes that this host knows, by UUID, each under a name of its own; and those that it was told to forget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownVolumes {
    pub(super) volumes: BTreeMap<Uuid, Known>,
    pub(super) forgotten: BTreeMap<Uuid, Forgotten>,
}

impl KnownVolumes {
    /// Every known volume, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Known)> {
        let mut volumes: Vec<_> = self.volumes.values().map(|volume| (&volume.name, volume)).collect();
        volumes.sort_by_key(|(name, _)| *name);
        volumes.into_iter()
    }

    /// What is left of those that were to be forgotten.
    pub fn forgotten(&self) -> impl Iterator<Item = (&Uuid, &Forgotten)> {
        self.forgotten.iter()
    }

    /// The volume of that name.
    pub fn get(&self, name: &Name) -> Option<&Known> {
        self.volumes.values().find(|volume| volume.name == *name)
    }

    /// The volume of that UUID.
    pub fn by_uuid(&self, uuid: Uuid) -> Option<&Known> {
        self.volumes.get(&uuid)
    }

    /// The volume that `text` names: by its name, its UUID, or the path of its backing, for which the disks are looked at.
    pub fn find(&self, text: &str) -> Option<&Known> {
        let path = Path::new(text);
        self.volumes
            .values()
            .find(|volume| volume.name.as_str() == text)
            .or_else(|| self.volumes.get(&Uuid::try_parse(text).ok()?))
            .or_else(|| self.volumes.values().find(|volume| path.is_absolute() && volume.backing == path))
            .or_else(|| {
                let mut volumes = self.volumes.values();
                volumes.find(|volume| path.is_absolute() && same_file(&volume.backing, path))
            })
    }

    /// The volumes that have their KEK from `provider`.
    pub fn of_provider<'a>(&'a self, provider: &'a ProviderName) -> impl Iterator<Item = &'a Name> {
        self.iter().filter(|(_, volume)| volume.provider == *provider).map(|(name, _)| name)
    }
}

/// Whether two paths lead to the same device or file.
pub(super) fn same_file(one: &Path, two: &Path) -> bool {
    one == two || FileId::at(one).is_ok_and(|first| FileId::at(two).is_ok_and(|second| first == second))
}
