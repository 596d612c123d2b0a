//! The methods of `io.blkseal.Daemon` that are about KEKs.

use serde::{Deserialize, Serialize};

use super::Name;

/// Where a KEK is in its life, as KMIP has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KekState {
    /// Made, and not used yet.
    PreActive,
    /// Wraps and unwraps.
    Active,
    /// Still unwraps what it wrapped, and must not wrap again.
    Deactivated,
    /// As deactivated, and known or feared to be in other hands.
    Compromised,
    /// Gone.
    Destroyed,
    /// Gone, after it had been compromised.
    DestroyedCompromised,
}

/// A KEK as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kek {
    /// The provider that has it.
    pub provider: Name,
    /// Its id there.
    pub kek_id: String,
    /// Its state; none for one that volumes need and the provider does not know, or cannot be asked for.
    pub state: Option<KekState>,
    /// When it was made, as `2026-01-31T12:00:00Z`, where the provider tells.
    pub created: Option<String>,
    /// Whether it wraps the keys of new volumes: the newest active one does.
    pub is_current: bool,
    /// The known volumes whose DEK it wraps.
    pub volumes: Vec<Name>,
}

/// Asks for KEKs, and which known volumes need each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekList {
    /// Whose; none asks every provider.
    pub provider: Option<Name>,
}

/// KEKs by provider, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keks {
    /// The KEKs.
    pub keks: Vec<Kek>,
    /// Why providers could not be asked, a line each.
    pub problems: Vec<String>,
}

/// Asks for one KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekShow {
    /// Whose.
    pub provider: Name,
    /// Which one.
    pub kek_id: String,
}

/// Makes a KEK. From then on it wraps the keys of new volumes, unless it is inactive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekCreate {
    /// Where; none takes the default provider.
    pub provider: Option<Name>,
    /// Whether it is to wrap nothing until it is activated.
    #[serde(default)]
    pub inactive: bool,
}

/// Makes a KEK active that has not been so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekActivate {
    /// Whose.
    pub provider: Name,
    /// Which one.
    pub kek_id: String,
}

/// Takes a KEK out of use: it wraps no more, and still unwraps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekRevoke {
    /// Whose.
    pub provider: Name,
    /// Which one.
    pub kek_id: String,
    /// Whether it is known or feared to be in other hands.
    #[serde(default)]
    pub compromised: bool,
}

/// Makes an end of a KEK. Refused while it is active, and while it wraps the DEK of a known volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekDestroy {
    /// Whose.
    pub provider: Name,
    /// Which one.
    pub kek_id: String,
}

/// Has another KEK wrap a volume's DEK, open or not: no data moves, and its users notice nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rekey {
    /// Name, UUID or path of the backing.
    pub volume: String,
    /// Whose KEK; none takes the provider of the present one.
    pub provider: Option<Name>,
    /// Which KEK; none takes the newest active one.
    pub kek_id: Option<String>,
}

/// What became of a volume's KEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rekeyed {
    /// The volume.
    pub name: Name,
    /// The provider of its KEK now.
    pub provider: String,
    /// Its KEK now.
    pub kek_id: String,
    /// The provider of its KEK before.
    pub old_provider: String,
    /// Its KEK before.
    pub old_kek_id: String,
    /// Whether something was done; nothing is where the volume has the KEK already.
    pub rewrapped: bool,
}
