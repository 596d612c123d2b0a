//! Who may do what. The one place where that is decided.

use nix::unistd::geteuid;

use crate::control::{DaemonCalls, Failure, FailureKind, Peer};

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    /// To see what there is.
    Look,
    /// To open and close volumes.
    Access,
    /// To make encrypted volumes.
    EncryptNew,
    /// To give others a way to a volume's data: recovery passphrases.
    Decrypt,
    /// To lock and unlock providers.
    ManageKeys,
    /// To add and remove providers.
    ManageKeyServers,
}

impl Privilege {
    /// What `call` takes.
    pub fn of(call: &DaemonCalls) -> Self {
        use DaemonCalls as Calls;
        match call {
            Calls::Ping(_)
            | Calls::GetVersion(_)
            | Calls::ProviderList(_)
            | Calls::ProviderCheck(_)
            | Calls::List(_)
            | Calls::Status(_) => Self::Look,
            Calls::Open(_) | Calls::OpenTarget(_) | Calls::Close(_) => Self::Access,
            Calls::Create(_) => Self::EncryptNew,
            Calls::RecoveryAdd(_) | Calls::RecoveryRemove(_) => Self::Decrypt,
            Calls::ProviderUnlock(_) | Calls::ProviderLock(_) => Self::ManageKeys,
            Calls::ProviderAdd(_)
            | Calls::ProviderAddKmip(_)
            | Calls::ProviderMeet(_)
            | Calls::ProviderRemove(_)
            | Calls::ProviderSetDefault(_) => Self::ManageKeyServers,
        }
    }
}

/// Fails unless `peer` has `privilege`. Root has each, and so has the user that the daemon runs as.
pub(super) fn authorise(peer: Peer, privilege: Privilege) -> Result<(), Failure> {
    if peer.uid == 0 || peer.uid == geteuid().as_raw() {
        return Ok(());
    }
    let message = format!("user {} has no privilege {privilege:?}", peer.uid);
    Err(Failure::new(FailureKind::NotPermitted, message).hint("run the command as root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_than_root_and_the_daemons_user_are_refused() {
        let own = geteuid().as_raw();
        for uid in [0, own] {
            assert!(authorise(Peer { uid, gid: 1, pid: 1 }, Privilege::ManageKeyServers).is_ok());
        }
        let stranger = Peer { uid: own + 4711, gid: 0, pid: 1 };
        for privilege in [Privilege::Look, Privilege::Access, Privilege::Decrypt] {
            let failure = authorise(stranger, privilege).unwrap_err();
            assert_eq!(failure.kind, FailureKind::NotPermitted);
        }
    }
}
