//! What can go wrong with a volume.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ublk_targets::secret::SecretError;

use crate::luks::LuksError;
use crate::name::Name;
use crate::provider::wrap::WrapError;
use crate::provider::{KekId, ProviderError, ProviderName};

/// What a device or file is to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It holds the data.
    Backing,
    /// It holds the header.
    Header,
    /// It holds a header with the volume's UUID: a copy.
    Copy,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backing => "is the backing of",
            Self::Header => "is the header of",
            Self::Copy => "has a header with the UUID of",
        })
    }
}

/// Why a volume could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No known volume has this name, UUID or backing.
    #[error("there is no volume {0}")]
    Unknown(String),
    /// Another volume has the name.
    #[error("the name {name} is taken: volume {name} is on {}", backing.display())]
    NameTaken {
        /// The name.
        name: Name,
        /// The backing of the volume that has it.
        backing: PathBuf,
    },
    /// What a volume was to be made of belongs to a known one, open or not.
    #[error("{} {what} volume {name}", path.display())]
    Known {
        /// The device or file.
        path: PathBuf,
        /// What it is to that volume.
        what: Part,
        /// The volume.
        name: Name,
    },
    /// A volume that this host does not know has to be given a name.
    #[error("the volume on {} has no name on this host yet", .0.display())]
    Unnamed(PathBuf),
    /// The backing holds another volume than the one that has this name.
    #[error("{} no longer holds volume {name}, but another one", backing.display())]
    Replaced {
        /// The name.
        name: Name,
        /// The backing.
        backing: PathBuf,
    },
    /// The backing of an open volume is not the file or disk that it was opened from.
    #[error("{} is another file or disk than the one that volume {name} was opened from", backing.display())]
    OtherFile {
        /// The volume.
        name: Name,
        /// The path that led to its backing.
        backing: PathBuf,
    },
    /// Somebody has the device open.
    #[error("volume {name} is in use: {by}")]
    InUse {
        /// The volume.
        name: Name,
        /// Who, as far as the kernel tells.
        by: String,
    },
    /// The header could not be made, read or changed.
    #[error(transparent)]
    Luks(#[from] LuksError),
    /// The provider could not give a KEK.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The DEK could not be unwrapped.
    #[error("the key of {} cannot be unwrapped with KEK {kek_id} of {provider}", backing.display())]
    Unwrap {
        /// The backing.
        backing: PathBuf,
        /// The KEK that its token names.
        kek_id: KekId,
        /// The provider that its token names.
        provider: ProviderName,
        /// What failed.
        #[source]
        source: WrapError,
    },
    /// There is no memory for a key.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The list of known volumes is not what blkseal wrote.
    #[error("{} is damaged: {problem}", path.display())]
    Registry {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file system or the kernel failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// Whether the same may succeed later by itself, when disks, servers or whoever uses the volume have changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Luks(error) => error.is_transient(),
            Self::Provider(error) => error.is_transient(),
            // Another file may be what is there for the moment only, but what was written to it meanwhile is lost.
            Self::OtherFile { .. } | Self::Replaced { .. } | Self::Unwrap { .. } | Self::Unknown(_) => false,
            _ => true,
        }
    }

    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unknown(_) => {
                "`blkseal list` shows the volumes that there are; a path opens one from elsewhere"
            }
            Self::NameTaken { .. } => {
                "choose another name; `blkseal forget` frees the name of a volume that is gone"
            }
            Self::Known { .. } => {
                "`blkseal release`, `blkseal erase` or `blkseal forget` that volume first; --force does not help here"
            }
            Self::Unnamed(_) => "choose one with --name",
            Self::Replaced { .. } => "if it is at another path now, open it by that; it keeps its name",
            Self::OtherFile { .. } => {
                "put the original back there, or give the device up with `blkseal close --force`"
            }
            Self::InUse { .. } => "unmount it, or end what uses it, then close it again",
            Self::Luks(error) => return error.hint(),
            Self::Provider(error) => return error.hint(),
            Self::Unwrap { .. } => {
                "its token was changed, or the provider has another key file, or other key servers, than it had"
            }
            Self::Registry { .. } => {
                "put a copy of it back, or correct it (count is that of its tables), or move it away: volumes that are open come back into \
                 the list, others once they are opened by path; until then nothing keeps their KEKs from `blkseal kek destroy`"
            }
            _ => return None,
        })
    }
}
