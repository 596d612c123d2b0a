//! The volumes that this host knows, by name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Part, VolumeError};
use crate::atomic_file;
use crate::identity::FileId;
use crate::luks::{Header, Place, Placement};
use crate::name::Name;
use crate::provider::{KekId, ProviderName};

const FILE_NAME: &str = "volumes.toml";
const FILE_LIMIT: u64 = 64 << 20;

/// What this host remembers of a volume. The header is what counts; provider and KEK are what it said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The UUID in its header.
    pub uuid: Uuid,
    /// The block device or file that holds its data.
    pub backing: PathBuf,
    /// The file that holds its header; none where that lies before the data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<PathBuf>,
    /// The provider of its KEK.
    pub provider: ProviderName,
    /// Its KEK.
    pub kek_id: KekId,
}

impl Known {
    /// What `header` says.
    pub fn of(header: &Header) -> Self {
        Self {
            uuid: header.uuid,
            backing: header.place.backing.clone(),
            header: match &header.place.header {
                Placement::Attached => None,
                Placement::Detached(path) => Some(path.clone()),
            },
            provider: header.token.provider.clone(),
            kek_id: header.token.kek_id.clone(),
        }
    }

    /// What `path` is to this volume: by the text, for a disk may be away, or because it leads to the same device or file.
    /// This looks at the disk.
    pub fn part_at(&self, path: &Path) -> Option<Part> {
        let parts = [(Some(&self.backing), Part::Backing), (self.header.as_ref(), Part::Header)];
        parts.into_iter().find_map(|(known, part)| same_file(known?, path).then_some(part))
    }

    /// Where the volume is.
    pub fn place(&self) -> Place {
        match &self.header {
            None => Place::attached(&self.backing),
            Some(header) => Place::detached(&self.backing, header),
        }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default)]
    volume: BTreeMap<Name, Known>,
}

/// The known volumes; each change is on disk before the call that makes it returns.
pub struct Registry {
    path: PathBuf,
    content: Content,
}

impl Registry {
    /// The volumes that `volumes.toml` in `directory` names; none if there is no such file.
    pub fn load(directory: &Path) -> Result<Self, VolumeError> {
        let path = directory.join(FILE_NAME);
        let damaged = |problem: String| VolumeError::Registry { path: path.clone(), problem };
        let content = match atomic_file::read_limited(&path, FILE_LIMIT) {
            Ok(bytes) => {
                let text = str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
                toml::from_str(text).map_err(|error| damaged(one_line(&error)))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(source) => return Err(VolumeError::Io { action: "read", path, source }),
        };
        Ok(Self { path, content })
    }

    /// Every known volume, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Known)> {
        self.content.volume.iter()
    }

    /// The volume of that name.
    pub fn get(&self, name: &Name) -> Option<&Known> {
        self.content.volume.get(name)
    }

    /// The volume that `text` names: by its name, its UUID, or the path of its backing.
    pub fn find(&self, text: &str) -> Option<(&Name, &Known)> {
        let uuid = Uuid::try_parse(text).ok();
        let path = Path::new(text);
        self.iter()
            .find(|(name, _)| name.as_str() == text)
            .or_else(|| self.iter().find(|(_, known)| Some(known.uuid) == uuid))
            .or_else(|| self.iter().find(|(_, known)| path.is_absolute() && same_file(&known.backing, path)))
    }

    /// The volumes that have their KEK from `provider`.
    pub fn of_provider<'a>(&'a self, provider: &'a ProviderName) -> impl Iterator<Item = &'a Name> {
        self.iter().filter(|(_, known)| known.provider == *provider).map(|(name, _)| name)
    }

    /// Remembers a volume under `name`, and forgets what was remembered of this name or this backing.
    pub fn insert(&mut self, name: Name, known: Known) -> Result<(), VolumeError> {
        let mut content = self.content.clone();
        content.volume.retain(|_, other| !same_file(&other.backing, &known.backing));
        content.volume.insert(name, known);
        self.save(content)
    }

    /// Remembers the KEK that the header of the volume `name` says. Where the name is another volume's by now, nothing
    /// changes.
    pub fn update(&mut self, name: &Name, header: &Header) -> Result<(), VolumeError> {
        let known = Known::of(header);
        if self.get(name).is_none_or(|before| before.uuid != known.uuid || *before == known) {
            return Ok(());
        }
        let mut content = self.content.clone();
        content.volume.insert(name.clone(), known);
        self.save(content)
    }

    /// Forgets the volume `name`.
    pub fn remove(&mut self, name: &Name) -> Result<(), VolumeError> {
        let mut content = self.content.clone();
        content.volume.remove(name);
        self.save(content)
    }

    fn save(&mut self, content: Content) -> Result<(), VolumeError> {
        let text = toml::to_string(&content)
            .map_err(|error| VolumeError::Registry { path: self.path.clone(), problem: error.to_string() })?;
        atomic_file::replace(&self.path, text.as_bytes()).map_err(|source| VolumeError::Io {
            action: "write",
            path: self.path.clone(),
            source,
        })?;
        self.content = content;
        Ok(())
    }
}

/// Whether two paths lead to the same device or file.
fn same_file(one: &Path, two: &Path) -> bool {
    one == two || FileId::at(one).is_ok_and(|first| FileId::at(two).is_ok_and(|second| first == second))
}

fn one_line(error: &toml::de::Error) -> String {
    error.to_string().trim_end().replace('\n', " ")
}
