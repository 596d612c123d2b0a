//! What there is to be allowed; `roles.toml` names it, `authorise` asks for it.

use std::fmt;

use serde::Deserialize;

/// What a call takes; named after vSphere's privileges for cryptographic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Privilege {
    /// To see what there is.
    Look,
    /// To open and close volumes.
    Access,
    /// To choose how a device works: its queues and threads, and that discards reach the backing.
    Tune,
    /// To make a volume known to this host that was made elsewhere.
    Register,
    /// To open devices that are not volumes.
    AddDisk,
    /// To make encrypted volumes.
    EncryptNew,
    /// To put what is encrypted already under the keys of a provider.
    Encrypt,
    /// To give others a way to a volume's data: recovery passphrases, or all of it to stock cryptsetup.
    Decrypt,
    /// To have volumes' keys wrapped by other keys.
    Recrypt,
    /// To make and end KEKs; to lock and unlock providers.
    ManageKeys,
    /// To add, change and remove providers.
    ManageKeyServers,
}

impl Privilege {
    /// Every privilege.
    pub const ALL: [Self; 11] = [
        Self::Look,
        Self::Access,
        Self::Tune,
        Self::Register,
        Self::AddDisk,
        Self::EncryptNew,
        Self::Encrypt,
        Self::Decrypt,
        Self::Recrypt,
        Self::ManageKeys,
        Self::ManageKeyServers,
    ];
}

impl fmt::Display for Privilege {
    /// As `roles.toml` names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "look",
            Self::Access => "access",
            Self::Tune => "tune",
            Self::Register => "register",
            Self::AddDisk => "add-disk",
            Self::EncryptNew => "encrypt-new",
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Recrypt => "recrypt",
            Self::ManageKeys => "manage-keys",
            Self::ManageKeyServers => "manage-key-servers",
        })
    }
}
