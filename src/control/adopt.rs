//! The methods of `io.blkseal.Daemon` by which volumes come from stock cryptsetup and go back to it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Name, SecretFd};

/// Puts a LUKS2 volume that blkseal did not make under a KEK. No data moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// What the volume is to be called.
    pub name: Name,
    /// The block device or file that holds its data.
    pub backing: PathBuf,
    /// The file that holds its header; none where that lies before the data.
    pub header: Option<PathBuf>,
    /// A passphrase that opens it.
    pub secret: SecretFd,
    /// Whose KEK wraps its key; none takes the default provider.
    pub provider: Option<Name>,
    /// Which KEK; none takes the newest active one.
    pub kek_id: Option<String>,
    /// Whether its passphrases are wiped, once the KEK has been seen to open it.
    #[serde(default)]
    pub remove_passphrases: bool,
}

/// Takes the token away from a closed volume that has a recovery passphrase, and forgets the volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Name, UUID or path of the backing.
    pub volume: String,
}
