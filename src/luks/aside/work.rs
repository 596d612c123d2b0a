//! What is done with libcryptsetup: each of these reads from the volume's disk and may write to it, so that it may hang, and is
//! locked out by whoever holds flock(2) on an image.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use ublk_targets::secret::{Dek, Secret};
use uuid::Uuid;

use super::super::{Access, Header, LuksError, Place, Token, adopt, header, recovery};

/// How long reads and writes of a header may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long they may take with the derivation of a key from a passphrase. What that costs the passphrase's maker chose.
const DERIVATION_LIMIT: Duration = Duration::from_secs(600);

/// One thing to do. `uuid` is the volume's that it is to be done to: to another one it is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in super::super) enum Work {
    Open,
    Verify { uuid: Uuid },
    ReplaceToken { uuid: Uuid, token: Token },
    Release { uuid: Uuid },
    AddPassphrase { uuid: Uuid },
    RemovePassphrase { uuid: Uuid, slot: u32 },
    Unlock,
    AddToken { uuid: Uuid, token: Token },
}

/// The secrets that it takes.
#[derive(Clone, Copy, Default)]
pub(in super::super) struct Keys<'k> {
    pub dek: Option<&'k Dek>,
    pub passphrase: Option<&'k Secret>,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
pub(in super::super) enum Done {
    Nothing,
    Header(Header),
    Slot(u32, Header),
    /// The key goes beside the message.
    Key(Uuid, #[serde(skip)] Option<Dek>),
}

impl Work {
    pub fn limit(&self) -> Duration {
        if self.derives_key() { DERIVATION_LIMIT } else { LIMIT }
    }

    /// Whether it derives a key from a passphrase, which may take a large part of the host's memory.
    pub fn derives_key(&self) -> bool {
        matches!(self, Self::AddPassphrase { .. } | Self::Unlock)
    }

    /// Does it in this process, for as long as it takes.
    pub fn carry_out(&self, place: &Place, access: &Access, keys: Keys<'_>) -> Result<Done, LuksError> {
        let missing = || LuksError::aside(place, "was not given the key");
        let dek = || keys.dek.ok_or_else(missing);
        let passphrase = || keys.passphrase.ok_or_else(missing);
        let known = |uuid: &Uuid| header::load_known(place, access, *uuid);
        Ok(match self {
            Self::Open => Done::Header(header::load(place, access)?.header),
            Self::Verify { uuid } => {
                known(uuid)?.verify(dek()?)?;
                Done::Nothing
            }
            Self::ReplaceToken { uuid, token } => {
                known(uuid)?.replace_token(token)?;
                Done::Header(known(uuid)?.header)
            }
            Self::Release { uuid } => {
                header::release(place, access, *uuid)?;
                Done::Nothing
            }
            Self::AddPassphrase { uuid } => {
                let slot = recovery::add(known(uuid)?, dek()?, passphrase()?)?;
                Done::Slot(slot, known(uuid)?.header)
            }
            Self::RemovePassphrase { uuid, slot } => {
                recovery::remove(known(uuid)?, *slot)?;
                Done::Header(known(uuid)?.header)
            }
            Self::Unlock => {
                let (uuid, dek) = adopt::take_key(place, access, passphrase()?)?;
                Done::Key(uuid, Some(dek))
            }
            Self::AddToken { uuid, token } => {
                adopt::add_token(place, access, *uuid, token)?;
                Done::Header(known(uuid)?.header)
            }
        })
    }
}

impl Done {
    pub fn header(self, place: &Place) -> Result<Header, LuksError> {
        match self {
            Self::Header(header) | Self::Slot(_, header) => Ok(header),
            _ => Err(LuksError::aside(place, "answered what was not asked")),
        }
    }

    /// The same, to be reached by `access` from here on.
    pub(super) fn reached_by(self, access: &Access) -> Self {
        let reached = |header| Header { access: access.clone(), ..header };
        match self {
            Self::Header(header) => Self::Header(reached(header)),
            Self::Slot(slot, header) => Self::Slot(slot, reached(header)),
            done => done,
        }
    }
}
