//! The methods of `io.blkseal.Daemon` by which this host ends with a volume.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Name;

/// Forgets a closed volume, whose disk may be gone. Nothing on the disk changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// Name, UUID or path of the backing; of one that was forgotten before, name or UUID.
    pub volume: String,
    /// Whether its KEK may go, too.
    #[serde(default)]
    pub for_good: bool,
}

/// What was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// What it was called.
    pub name: Name,
    /// The UUID in its header.
    pub uuid: Uuid,
    /// The provider of its KEK.
    pub provider: String,
    /// Its KEK.
    pub kek_id: String,
    /// Whether that KEK may go.
    pub for_good: bool,
}

/// Destroys what opens a closed volume, and forgets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erase {
    /// Name, UUID or path of the backing.
    pub volume: String,
}

/// What was erased, and the KEK that would open what is left of it elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// What it was called.
    pub name: Name,
    /// The UUID that its header had.
    pub uuid: Uuid,
    /// The provider of its KEK.
    pub provider: String,
    /// Its KEK.
    pub kek_id: String,
    /// The volumes that need this KEK, those that were to be forgotten included.
    pub needed_by: Vec<Name>,
}
