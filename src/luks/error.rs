//! What can go wrong with a volume's header.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ublk_targets::secret::SecretError;

use super::{HeaderCopy, Place, TokenError};

/// Why a header could not be made, read or changed. Sizes are in bytes.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
pub enum LuksError {
    /// There is no such device or file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is a directory, a pipe or the like.
    #[error("{} is neither a block device nor a regular file", .0.display())]
    WrongFileType(PathBuf),
    /// libcryptsetup takes paths as C strings, and its bindings as UTF-8.
    #[error("the path {} is not valid UTF-8", .0.display())]
    Path(PathBuf),
    /// It cannot hold header and one sector.
    #[error("{} has {size} bytes, too few for a volume: at least {minimum} are needed", path.display())]
    TooSmall {
        /// The backing.
        path: PathBuf,
        /// What it has.
        size: u64,
        /// What it needs.
        minimum: u64,
    },
    /// Its size is not a whole number of sectors.
    #[error("the size of {}, {size} bytes, is not a multiple of the sector size, {sector_size}", path.display())]
    PartialSector {
        /// The backing.
        path: PathBuf,
        /// What it has.
        size: u64,
        /// The volume's sector size.
        sector_size: u32,
    },
    /// Only 512 and 4096 are sector sizes.
    #[error("{0} is not a sector size: 512 and 4096 are")]
    SectorSize(u32),
    /// The device cannot read or write single sectors of that size.
    #[error("{} has blocks of {block_size} bytes, sectors of {sector_size} are too small for it", path.display())]
    BlockSize {
        /// The backing.
        path: PathBuf,
        /// Its logical block size.
        block_size: u32,
        /// The volume's sector size.
        sector_size: u32,
    },
    /// LUKS2 has 48 bytes for a label, with the zero at its end.
    #[error("{0:?} is not a label: 1 to 47 bytes without control characters")]
    Label(String),
    /// Someone else uses it.
    #[error("{} is in use: {by}", path.display())]
    InUse {
        /// The backing.
        path: PathBuf,
        /// Who does, as far as the kernel tells.
        by: String,
    },
    /// There is something on it already.
    #[error("{} holds {found}", path.display())]
    Occupied {
        /// The backing.
        path: PathBuf,
        /// The signatures found, such as `ext4` or `gpt`.
        found: String,
    },
    /// A detached header would replace a file.
    #[error("{} exists already", .0.display())]
    HeaderExists(PathBuf),
    /// What a detached header would replace is something else.
    #[error("{} is no detached LUKS2 header", .0.display())]
    NoDetachedHeader(PathBuf),
    /// Header and data would be the same file.
    #[error("{} cannot be both the header and the backing", .0.display())]
    SameFile(PathBuf),
    /// Neither copy of a header is there.
    #[error("{} has no LUKS2 header", .0.display())]
    NotLuks(PathBuf),
    /// An older header.
    #[error("{} has a LUKS1 header; volumes need LUKS2", .0.display())]
    Luks1(PathBuf),
    /// Both copies of the header are damaged.
    #[error("both copies of the LUKS2 header of {} are damaged", .0.display())]
    Damaged(PathBuf),
    /// One copy is damaged, and libcryptsetup would not write the other over it.
    #[error("the {copy} copy of the LUKS2 header of {} is damaged and was not repaired: {reason}", path.display())]
    NotRepaired {
        /// The header.
        path: PathBuf,
        /// The damaged copy.
        copy: HeaderCopy,
        /// What libcryptsetup said.
        reason: String,
    },
    /// A LUKS2 volume that blkseal cannot serve.
    #[error("{} cannot be used: {what}", path.display())]
    Unsupported {
        /// The header.
        path: PathBuf,
        /// What is different from a blkseal volume.
        what: String,
    },
    /// The header carries no usable token.
    #[error("{}", path.display())]
    Token {
        /// The header.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TokenError,
    },
    /// The header is not the one that was opened.
    #[error("{} holds another volume than before", .0.display())]
    OtherVolume(PathBuf),
    /// The DEK does not match the header's digest.
    #[error("the key in the token of {} is not the one that its data has now", .0.display())]
    WrongKey(PathBuf),
    /// No keyslot opens by this passphrase.
    #[error("no passphrase of {} matches", .0.display())]
    WrongPassphrase(PathBuf),
    /// A header that is to get a token has one.
    #[error("{} is a blkseal volume already", .0.display())]
    Adopted(PathBuf),
    /// Nothing but its token opens the volume.
    #[error("{} has no recovery passphrase, without which nobody could open it", .0.display())]
    NoPassphrase(PathBuf),
    /// The keyslot is empty.
    #[error("{} has no recovery passphrase in slot {slot}", path.display())]
    NoSuchSlot {
        /// The header.
        path: PathBuf,
        /// The slot asked for.
        slot: u32,
    },
    /// There is no memory for a key.
    #[error(transparent)]
    Memory(
        #[from]
        #[serde(with = "memory")]
        SecretError,
    ),
    /// The disk that it is on does not answer.
    #[error("{} does not answer", .0.display())]
    NoAnswer(PathBuf),
    /// What a passphrase was made to cost is more than this host has. Both figures are in bytes.
    #[error(
        "a passphrase of {} takes {needed} bytes of memory to check or make, more than half of the {available} available",
        path.display()
    )]
    Cost {
        /// The header.
        path: PathBuf,
        /// What it takes.
        needed: u64,
        /// What this host has to spare.
        available: u64,
    },
    /// The process that was to work on it did not.
    #[error("the process that works on {} {what}", path.display())]
    Aside {
        /// The header.
        path: PathBuf,
        /// What became of it.
        what: String,
    },
    /// libcryptsetup failed.
    #[error("cannot {action} {}: {detail}", path.display())]
    Library {
        /// What was tried.
        action: Cow<'static, str>,
        /// The header.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
    /// This user may not use it.
    #[error("no permission to {action} {}", path.display())]
    Permission {
        /// What was tried.
        action: Cow<'static, str>,
        /// The device or file.
        path: PathBuf,
    },
    /// The kernel failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: Cow<'static, str>,
        /// The device or file.
        path: PathBuf,
        /// What it answered.
        #[source]
        #[serde(with = "os")]
        source: io::Error,
    },
}

impl LuksError {
    /// Whether the same may succeed later by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() != io::ErrorKind::PermissionDenied,
            Self::Memory(_) | Self::Missing(_) | Self::InUse { .. } | Self::Library { .. } => true,
            Self::NotRepaired { .. } | Self::NoAnswer(_) | Self::Aside { .. } => true,
            _ => false,
        }
    }

    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Path(_) => "name it through a symbolic link",
            Self::PartialSector { .. } => "round the size down, or choose a sector size of 512",
            Self::BlockSize { .. } => "use a sector size of 4096",
            Self::InUse { .. } => "unmount or close it first; --force does not help here",
            Self::Occupied { .. } => {
                "look at it with `wipefs --no-act`; --force overwrites it, with all its data"
            }
            Self::HeaderExists(_) => {
                "choose another path; --replace-header replaces a detached header that no volume uses"
            }
            Self::NoDetachedHeader(_) => "choose another path; --replace-header replaces nothing else",
            Self::NotLuks(_) => {
                "if it was a volume, restore its header from a backup with `cryptsetup luksHeaderRestore`"
            }
            Self::Luks1(_) => "`cryptsetup convert --type luks2` can make it LUKS2",
            Self::Damaged(_) => "restore the header from a backup with `cryptsetup luksHeaderRestore`",
            Self::NotRepaired { .. } => "make a copy of it, then run `cryptsetup repair`",
            Self::Token { source, .. } => return source.hint(),
            Self::WrongKey(_) => {
                "`cryptsetup reencrypt` gives a volume another key: `blkseal release` it, then `blkseal adopt` it with a passphrase"
            }
            Self::Adopted(_) => {
                "`blkseal open` opens it; where that says that its key is another one, `blkseal release` it first, then adopt it"
            }
            Self::NoPassphrase(_) => "`blkseal recovery add` gives it one",
            Self::NoSuchSlot { .. } => "`blkseal status` shows the slots in use",
            Self::Permission { .. } => "run as root",
            Self::NoAnswer(_) => "check the storage that it is on; 'dmesg' may tell more",
            Self::Cost { .. } => "free memory, or use the volume where there is more",
            Self::Aside { .. } => "'dmesg' and the daemon's log may tell why, such as want of memory",
            _ => return None,
        })
    }

    /// What the kernel answered to `action` on `path`.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let (action, path) = (Cow::from(action), path.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing(path),
            io::ErrorKind::PermissionDenied => Self::Permission { action, path },
            _ => Self::Io { action, path, source },
        }
    }

    pub(super) fn aside(place: &Place, what: &str) -> Self {
        Self::Aside { path: place.header_path().to_owned(), what: what.to_owned() }
    }

    pub(super) fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.into() }
    }
}

/// An error of the kernel on its way from the process that met it: its number, or where it has none its text.
mod os {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(error: &io::Error, serializer: S) -> Result<S::Ok, S::Error> {
        (error.raw_os_error(), error.to_string()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<io::Error, D::Error> {
        let (number, text) = <(Option<i32>, String)>::deserialize(deserializer)?;
        Ok(number.map_or_else(|| io::Error::other(text), io::Error::from_raw_os_error))
    }
}

/// Likewise of secret memory. Only its limit is told apart.
mod memory {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(error: &SecretError, serializer: S) -> Result<S::Ok, S::Error> {
        let limit = match error {
            SecretError::Limit { needed, limit } => Some((*needed, *limit)),
            _ => None,
        };
        (limit, error.to_string()).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretError, D::Error> {
        let (limit, text) = <(Option<(usize, u64)>, String)>::deserialize(deserializer)?;
        Ok(match limit {
            Some((needed, limit)) => SecretError::Limit { needed, limit },
            None => SecretError::Os { action: "use", source: io::Error::other(text) },
        })
    }
}
