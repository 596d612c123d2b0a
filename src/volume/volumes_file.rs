//! `volumes.toml`: the known volumes on disk (`docs/FORMAT.md`).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::known::{Forgotten, Known, KnownVolumes};
use crate::name::Name;
use crate::provider::{KekId, ProviderName};

const VERSION: u32 = 2;

#[derive(Deserialize)]
struct Preamble {
    version: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// Of the tables below, so that a file that was cut short is noticed.
    count: usize,
    #[serde(default)]
    volume: BTreeMap<Uuid, Entry>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    forgotten: BTreeMap<Uuid, Forgotten>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Name,
    backing: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<PathBuf>,
    provider: ProviderName,
    kek_id: KekId,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// What releases wrote that took a volume for its name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByName {
    volume: BTreeMap<Name, NamedEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedEntry {
    uuid: Uuid,
    backing: PathBuf,
    header: Option<PathBuf>,
    provider: ProviderName,
    kek_id: KekId,
}

/// The volumes in the file, or what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<KnownVolumes, String> {
    let text = str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Err("it is empty, which it never is, also where there are no volumes".into());
    }
    match toml::from_str::<Preamble>(text).map_err(one_line)?.version {
        None => by_name(toml::from_str(text).map_err(one_line)?),
        Some(VERSION) => by_uuid(toml::from_str(text).map_err(one_line)?),
        Some(version) => Err(format!("it has format version {version}, which this blkseal does not know")),
    }
}

fn by_uuid(content: Content) -> Result<KnownVolumes, String> {
    let found = content.volume.len() + content.forgotten.len();
    if found != content.count {
        return Err(format!("it has {found} entries where it says that it has {}", content.count));
    }
    let mut known = KnownVolumes { forgotten: content.forgotten, ..KnownVolumes::default() };
    for (uuid, Entry { name, backing, header, provider, kek_id, digest }) in content.volume {
        if let Some(other) = known.get(&name) {
            return Err(format!("the volumes {} and {uuid} both have the name {name}", other.uuid));
        }
        known.volumes.insert(uuid, Known { uuid, name, backing, header, provider, kek_id, digest });
    }
    Ok(known)
}

/// A volume that was known by several names, as a copy of a disk may have been, keeps the first.
fn by_name(content: ByName) -> Result<KnownVolumes, String> {
    let mut known = KnownVolumes::default();
    for (name, NamedEntry { uuid, backing, header, provider, kek_id }) in content.volume {
        if let Some(other) = known.by_uuid(uuid) {
            log::warn!("volume {name} is volume {}, by its UUID {uuid}, and goes by that name", other.name);
            continue;
        }
        known.volumes.insert(uuid, Known { uuid, name, backing, header, provider, kek_id, digest: None });
    }
    Ok(known)
}

/// The file with these volumes in it.
pub fn text(known: &KnownVolumes) -> Result<String, String> {
    let entry = |volume: &Known| {
        let Known { uuid, name, backing, header, provider, kek_id, digest } = volume.clone();
        (uuid, Entry { name, backing, header, provider, kek_id, digest })
    };
    let content = Content {
        version: VERSION,
        count: known.volumes.len() + known.forgotten.len(),
        volume: known.volumes.values().map(entry).collect(),
        forgotten: known.forgotten.clone(),
    };
    toml::to_string(&content).map_err(|error| error.to_string())
}

fn one_line(error: toml::de::Error) -> String {
    error.to_string().trim_end().replace('\n', " ")
}
