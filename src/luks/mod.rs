//! Volumes' headers: LUKS2 through libcryptsetup, with the wrapped DEK in a token (`docs/FORMAT.md`).
//!
//! | part | what it does |
//! |---|---|
//! | [`prepare`] | makes a volume, after every check that could refuse it: a [`Prepared`], which is written |
//! | [`unlock`] | opens a volume that has no token yet with its passphrase: an [`Unlocked`], which takes one |
//! | [`look`](fn@look) | reads a header without libcryptsetup, which locks and may write: a [`Header`] to look at |
//! | [`open`] | reads a header, with its second copy repaired where one was damaged: a [`Header`] |
//! | [`Header`] | checks a DEK, replaces the token or takes it away, keeps recovery passphrases |
//! | [`Files`] | a volume's files, opened once, in place of the paths that led to them |
//! | [`erase`](fn@erase) | destroys all that opens a volume |
//! | [`Token`] | the JSON that names provider and KEK and carries the wrapped DEK |
//! | [`aside`] | has libcryptsetup work in processes that can be killed |
//! | [`claim`](fn@claim), [`claim_to_read`] | takes a backing device or file for one user |
//!
//! Key bytes go from secret pages straight into libcryptsetup, or from it into them; it keeps copies in locked memory of
//! its own and wipes that when it is done.

mod adopt;
pub mod aside;
mod calls;
mod claim;
mod copies;
mod crypt;
mod erase;
mod error;
mod files;
mod format;
mod header;
mod look;
mod memory;
mod metadata;
mod probe;
mod recovery;
mod token;

#[cfg(test)]
mod tests;

pub use calls::{Unlocked, open, open_by, open_to_read, unlock};
pub use claim::{claim, claim_to_read};
pub use copies::{HeaderCopy, uuid_at};
pub use erase::erase;
pub use error::LuksError;
pub use files::{Access, Files};
pub use format::{FormatOptions, Prepared, prepare};
pub use header::{Header, Repair};
pub use look::look;
pub use metadata::Keyslot;
pub use token::{Token, TokenError};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The cipher of every volume, in dm-crypt's notation: IEEE 1619 XTS, tweak = number of the 512-byte sector.
pub const CIPHER: &str = "aes-xts-plain64";
/// Where data starts on a backing with an attached header, in bytes: LUKS2's default.
pub const ATTACHED_DATA_OFFSET: u64 = 16 * 1024 * 1024;

/// Where a volume's header is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Placement {
    /// On the backing, before the data.
    Attached,
    /// In a file (or on a device) of its own.
    Detached(PathBuf),
}

/// Where a volume is: its data, and its header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// The block device or regular file that holds the ciphertext.
    pub backing: PathBuf,
    /// Where the header is.
    pub header: Placement,
}

impl Place {
    /// A volume with its header before its data.
    pub fn attached(backing: impl Into<PathBuf>) -> Self {
        Self { backing: backing.into(), header: Placement::Attached }
    }

    /// A volume with its header elsewhere.
    pub fn detached(backing: impl Into<PathBuf>, header: impl Into<PathBuf>) -> Self {
        Self { backing: backing.into(), header: Placement::Detached(header.into()) }
    }

    /// The device or file that the header is on.
    pub fn header_path(&self) -> &Path {
        match &self.header {
            Placement::Attached => &self.backing,
            Placement::Detached(path) => path,
        }
    }

    /// That libcryptsetup can be told where the volume is.
    fn check_paths(&self) -> Result<(), LuksError> {
        match [self.backing.as_path(), self.header_path()].into_iter().find(|path| path.to_str().is_none()) {
            Some(path) => Err(LuksError::Path(path.to_owned())),
            None => Ok(()),
        }
    }
}
