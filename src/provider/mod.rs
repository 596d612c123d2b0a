//! Where KEKs come from: the [`KeyProvider`] trait, its kinds, and the registry of the providers in use.
//!
//! | part | what it holds |
//! |---|---|
//! | [`KeyProvider`] | what every kind of provider can do |
//! | [`kmip`] | KEKs of a cluster of key servers |
//! | [`native`] | KEKs in a file of this host, sealed by a passphrase or key file |
//! | [`KekState`] | where a KEK is in its life, and the ways from there |
//! | [`Registry`] | the providers by name, and which is the default; kept in `providers.toml` |
//! | [`wrap`] | a DEK under a KEK: AES-KWP (NIST SP 800-38F, RFC 5649) |
//!
//! Calls may read and write files and, for providers on the network, wait for a server with bounded time: run them
//! where blocking is allowed, never on the data path.

mod error;
pub mod kmip;
mod names;
pub mod native;
mod registry;
mod states;
pub mod wrap;

#[cfg(test)]
pub(crate) mod tests;

pub use error::ProviderError;
pub use names::{KekId, NameError, ProviderName};
pub use registry::{ProviderConfig, ProviderSummary, Registry};
pub use states::{KekChange, KekState, Revocation};

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use ublk_targets::secret::{Dek, Kek, Secret};

/// A source of KEKs. One value serves all threads.
pub trait KeyProvider: Send + Sync {
    /// The name that volumes' tokens know it by.
    fn name(&self) -> &ProviderName;

    /// What kind of provider it is.
    fn kind(&self) -> ProviderKind;

    /// Whether keys can be had from it now. Never blocks for long.
    fn availability(&self) -> Availability;

    /// Makes a new KEK, active from the start and durably kept when this returns.
    fn create_kek(&self) -> Result<KekId, ProviderError>;

    /// The same, but not active: it wraps nothing until it is activated.
    fn create_inactive_kek(&self) -> Result<KekId, ProviderError>;

    /// Changes the state of the KEK `id`, durably when this returns, and gives the new one. Nothing happens to a KEK that
    /// is in the state already.
    fn change_kek(&self, id: &KekId, change: KekChange) -> Result<KekState, ProviderError>;

    /// What may be told of the KEK `id`, as it is now.
    fn kek(&self, id: &KekId) -> Result<KekInfo, ProviderError>;

    /// The state of the KEK `id`, as far as that is known without waiting for anybody.
    fn known_state(&self, id: &KekId) -> Option<KekState>;

    /// The KEK `id` to wrap with, in secret pages of its own, unless its state keeps it even from unwrapping. Who caches it
    /// decides how long it lives.
    fn fetch_kek(&self, id: &KekId) -> Result<Kek, ProviderError>;

    /// The DEK that `wrapped` holds under the KEK `id`. Fails with [`ProviderError::Wrap`] where no KEK that is to be had
    /// under that id wrapped it.
    fn unwrap_dek(&self, id: &KekId, wrapped: &[u8]) -> Result<Dek, ProviderError> {
        Ok(wrap::unwrap(&self.fetch_kek(id)?, wrapped)?)
    }

    /// Whether the KEK `id` is in memory, so that [`KeyProvider::fetch_kek`] gives it whatever the provider's
    /// [`Availability`]. Never blocks.
    fn holds_kek(&self, _id: &KekId) -> bool {
        false
    }

    /// The KEK that wraps new DEKs, the newest active one, as far as that is known without waiting for anybody.
    fn wrapping_kek(&self) -> Option<KekId>;

    /// Wipes the KEKs in memory whose age is over; to be called now and then, for a provider has no clock.
    fn drop_old_keks(&self) {}

    /// Every KEK the provider has for this host, oldest first.
    fn list_keks(&self) -> Result<Vec<KekInfo>, ProviderError>;

    /// Makes a [`Availability::Locked`] provider ready with its passphrase or the bytes of its key file.
    /// Fails with [`ProviderError::NothingToUnlock`] where the kind needs no such secret.
    fn unlock(&self, secret: &Secret) -> Result<(), ProviderError>;

    /// Has the secret `new` make it ready from now on in place of `old`, and makes it ready.
    /// Fails with [`ProviderError::NothingToUnlock`] where the kind needs no such secret.
    fn change_secret(&self, _old: &Secret, _new: &Secret) -> Result<(), ProviderError> {
        Err(ProviderError::NothingToUnlock(self.name().clone()))
    }

    /// Wipes every key byte that the provider holds in memory.
    fn lock(&self);
}

/// The kinds of provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// A file of this host: [`native`].
    Native,
    /// A cluster of key servers: [`kmip`].
    Kmip,
}

impl std::fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Kmip => "kmip",
        })
    }
}

/// Whether a provider gives out keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// It does.
    Ready,
    /// It needs its passphrase or key file first.
    Locked,
    /// It cannot be reached, or its file cannot be read.
    Unavailable,
}

/// What may be told of a KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekInfo {
    /// Its name at the provider.
    pub id: KekId,
    /// What it may be used for.
    pub state: KekState,
    /// When it was made, as far as its provider knows.
    pub created: SystemTime,
}

/// The KEK that wraps new DEKs, of KEKs that are given oldest first: the newest active one.
pub fn newest_active(keks: &[KekInfo]) -> Option<&KekId> {
    keks.iter().rfind(|kek| kek.state == KekState::Active).map(|kek| &kek.id)
}
