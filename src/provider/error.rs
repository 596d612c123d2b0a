//! What can go wrong with a key provider.

use std::io;
use std::path::{Path, PathBuf};

use ublk_targets::secret::SecretError;

use super::kmip::{ConfigError, ServerAddress, ServerError};
use super::wrap::WrapError;
use super::{KekChange, KekId, KekState, ProviderName};

/// Why a provider could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No provider of this name is registered.
    #[error("there is no key provider {0}")]
    UnknownProvider(ProviderName),
    /// No provider is registered, so that none is the default.
    #[error("there is no default key provider")]
    NoDefault,
    /// The name is in use.
    #[error("there is a key provider {0} already")]
    NameTaken(ProviderName),
    /// The provider has no KEK of this id.
    #[error("key provider {provider} has no KEK {id}")]
    UnknownKek {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK that it was asked for.
        id: KekId,
    },
    /// The provider needs its passphrase or key file first.
    #[error("key provider {0} is locked")]
    Locked(ProviderName),
    /// The provider keeps no secret that a passphrase or key file would open.
    #[error("key provider {0} has nothing to unlock")]
    NothingToUnlock(ProviderName),
    /// The provider or its file does not serve now.
    #[error("key provider {provider} does not serve now: {reason}")]
    Unreachable {
        /// The provider that was asked.
        provider: ProviderName,
        /// What was seen.
        reason: String,
    },
    /// The settings of a KMIP provider, or the files that they name, cannot be used.
    #[error("key provider {provider}")]
    Kmip {
        /// The provider.
        provider: ProviderName,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// A key server does not do this for this host.
    #[error("key provider {provider} refuses")]
    Refused {
        /// The provider that was asked.
        provider: ProviderName,
        /// Which server, and why.
        #[source]
        source: ServerError,
    },
    /// The KEK was destroyed, or this host never had it.
    #[error(
        "KEK {id} is not to be had from key provider {provider}: key server {server} has destroyed it or does not know it"
    )]
    KekGone {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// The server that says so.
        server: ServerAddress,
    },
    /// Two servers of one provider give different KEKs under one id.
    #[error("key servers {} and {} of {provider} give different KEKs as {id}", servers[0], servers[1])]
    KeksDiffer {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// The two.
        servers: [ServerAddress; 2],
    },
    /// The KEK neither wraps nor unwraps in its state: it was never activated, or it is destroyed.
    #[error("KEK {id} of key provider {provider} is {state}")]
    KekUnusable {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// Its state.
        state: KekState,
    },
    /// The key is not one of this provider's, so that it is not blkseal's to change.
    #[error("key {id} is not one of key provider {provider}: it is in {found}")]
    KekForeign {
        /// The provider that was asked.
        provider: ProviderName,
        /// The key.
        id: KekId,
        /// Where it is instead, in words.
        found: String,
    },
    /// A server of the cluster has not the KEK that another one has, so that what it wraps would be lost with that one.
    #[error(
        "KEK {id} of key provider {provider} is not replicated: key server {server} has it, key server {lacking} says that it has not"
    )]
    NotReplicated {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// The server that has it.
        server: ServerAddress,
        /// The first server that has it not.
        lacking: ServerAddress,
    },
    /// The KEK must not wrap.
    #[error("KEK {id} of key provider {provider} is {state}: only an active one wraps keys")]
    KekNotActive {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// Its state.
        state: KekState,
    },
    /// No way leads from the KEK's state to the one that was asked for.
    #[error("KEK {id} of key provider {provider} is {state} and cannot be {change}")]
    KekChange {
        /// The provider that was asked.
        provider: ProviderName,
        /// The KEK.
        id: KekId,
        /// Its state.
        state: KekState,
        /// What should have been done.
        change: KekChange,
    },
    /// The passphrase or key file is not the one that seals the file.
    #[error("wrong passphrase or key file for {}", .0.display())]
    WrongSecret(PathBuf),
    /// The file is not what blkseal wrote.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file holds as many KEKs as it can.
    #[error("{} holds {limit} KEKs, which is the most", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// KEKs that a file holds at most.
        limit: usize,
    },
    /// This user may not use the file.
    #[error("no permission to {action} {}", path.display())]
    Permission {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file system failed in another way.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The passphrase could not be turned into a key.
    #[error("cannot derive a key from the passphrase: {0}")]
    Derivation(String),
    /// A key could not be wrapped.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// Memory for a key could not be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl ProviderError {
    /// Whether the same may succeed later by itself: not where the KEK is destroyed, or somebody has to change something.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::KekUnusable { state, .. } => !state.is_destroyed(),
            Self::UnknownProvider(_)
            | Self::NoDefault
            | Self::UnknownKek { .. }
            | Self::KekGone { .. }
            | Self::Permission { .. } => false,
            _ => true,
        }
    }

    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownProvider(_) => "`blkseal provider list` shows the providers that there are",
            Self::NoDefault => "add one with `blkseal provider add`",
            Self::NameTaken(_) => "choose another name; `blkseal provider set` changes the one that has it",
            Self::UnknownKek { .. } => "the KEK was made by another provider, or its file is an older copy",
            Self::Unreachable { .. } => {
                "`blkseal provider check` tells more; volumes whose KEK is in memory still open"
            }
            Self::Refused { source, .. } => return source.fault.hint(),
            Self::Kmip { source, .. } => return source.hint(),
            Self::KekGone { .. } => {
                "if it is destroyed, only a recovery passphrase opens its volumes; if another client made it, have it \
                 made accessible to this host's certificate"
            }
            Self::KeksDiffer { .. } => {
                "the servers of a provider must be one cluster: have their administrator look, or use another KEK"
            }
            Self::KekForeign { .. } => {
                "change it where it was made: by a provider with its object group, or at the key server"
            }
            Self::NotReplicated { .. } => {
                "wait for the cluster to replicate, or see that both are servers of one; `blkseal provider set                  --allow-unreplicated` goes on without"
            }
            Self::KekUnusable { state, .. } if state.is_destroyed() => {
                "only a recovery passphrase opens its volumes now"
            }
            Self::KekUnusable { .. } => "activate it with `blkseal kek activate`",
            Self::KekNotActive { .. } => {
                "`blkseal kek list` shows the active ones, `blkseal kek create` makes one"
            }
            Self::KekChange { state: KekState::Active, change: KekChange::Destroy, .. } => {
                "take it out of use first, with `blkseal kek revoke`"
            }
            Self::KekChange { change: KekChange::Activate, .. } => "make a new one with `blkseal kek create`",
            Self::Locked(_) => "unlock it with `blkseal provider unlock`",
            Self::Full { .. } => "add another native provider",
            Self::Damaged { .. } => "restore the file from a backup",
            Self::Permission { .. } => "run as the user that owns the file, usually root",
            _ => return None,
        })
    }

    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { action, path }
            }
            _ => Self::File { action, path, source },
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}
