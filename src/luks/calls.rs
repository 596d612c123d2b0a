//! What the rooms above do with volumes' headers: each call is one piece of work for libcryptsetup, aside or here.

use std::fs::File;
use std::sync::Arc;

use ublk_targets::secret::{Dek, Secret};
use uuid::Uuid;

use super::aside::{self, Done, Keys, Work};
use super::look::look_through;
use super::{Access, Files, Header, LuksError, Place, Token, claim};

/// Reads the header of the volume at `place`. A damaged copy is repaired from the good one, and
/// [`Header::repair`] says so; nothing else is written.
pub fn open(place: &Place) -> Result<Header, LuksError> {
    open_by(place, Access::ByPath)
}

/// As [`open`], in the way of `access`, which later calls on the header take as well.
pub fn open_by(place: &Place, access: Access) -> Result<Header, LuksError> {
    aside::run(place, &access, Work::Open, Keys::default())?.header(place)
}

/// Bytes of the largest header that is copied: metadata and the area of passphrases.
const LONGEST_COPY: u64 = 128 << 20;

/// As [`open_by`], through `files`, of which none is written: a damaged copy of the header is left as it is, and
/// [`Header::damaged`] says so.
pub fn open_to_read(place: &Place, files: Files) -> Result<Header, LuksError> {
    let seen = look_through(place, &files)?;
    let length = if seen.data_offset == 0 { LONGEST_COPY } else { seen.data_offset.min(LONGEST_COPY) };
    let path = place.header_path();
    let copied =
        files.with_copied_header(length).map_err(|e| LuksError::io("read the header of", path, e))?;
    let header = open_by(place, Access::Through(Arc::new(copied)))?;
    Ok(Header { repair: None, damaged: seen.damaged, ..header })
}

impl Header {
    /// Checks `dek` against the digest in the header (LUKS2: PBKDF2 over the volume key).
    pub fn verify(&self, dek: &Dek) -> Result<(), LuksError> {
        let keys = Keys { dek: Some(dek), ..Keys::default() };
        self.run(Work::Verify { uuid: self.uuid }, keys).map(drop)
    }

    /// Puts `token` in the place of the present one. The header's two copies are written one after the other, each
    /// with its checksum and synced, so that at every instant one of the tokens is the valid one.
    pub fn replace_token(&mut self, token: Token) -> Result<(), LuksError> {
        let replaced = self.run(Work::ReplaceToken { uuid: self.uuid, token }, Keys::default())?;
        *self = replaced.header(&self.place)?;
        Ok(())
    }

    /// Takes the token away, so that nothing but passphrases opens the volume, and blkseal is out of it. Refused while
    /// somebody uses the backing, and where there is no passphrase.
    pub fn release(self) -> Result<(), LuksError> {
        self.run(Work::Release { uuid: self.uuid }, Keys::default()).map(drop)
    }

    /// Adds a passphrase that opens the volume without any key provider, and returns its slot. The passphrase goes
    /// through Argon2id at the cost that cryptsetup chooses for this host (about two seconds), and half of the memory that is
    /// available at most. `dek` must be the volume's.
    pub fn recovery_add(&mut self, dek: &Dek, passphrase: &Secret) -> Result<u32, LuksError> {
        let keys = Keys { dek: Some(dek), passphrase: Some(passphrase) };
        match self.run(Work::AddPassphrase { uuid: self.uuid }, keys)? {
            Done::Slot(slot, header) => {
                *self = header;
                Ok(slot)
            }
            done => done.header(&self.place).map(|_| 0),
        }
    }

    /// Wipes the keyslot `slot`. The volume still opens through its token.
    pub fn recovery_remove(&mut self, slot: u32) -> Result<(), LuksError> {
        let removed = self.run(Work::RemovePassphrase { uuid: self.uuid, slot }, Keys::default())?;
        *self = removed.header(&self.place)?;
        Ok(())
    }

    fn run(&self, work: Work, keys: Keys<'_>) -> Result<Done, LuksError> {
        aside::run(&self.place, &self.access, work, keys)
    }
}

/// A volume without a token, which a passphrase has opened. Nobody else can use it while this lives, and nothing of it has
/// changed, but for a damaged copy of its header, which is repaired.
pub struct Unlocked {
    place: Place,
    uuid: Uuid,
    dek: Dek,
    _claim: File,
}

/// Opens the volume at `place` with one of its own passphrases. Refuses what blkseal could not serve, what is in use, and
/// what has a token.
pub fn unlock(place: &Place, passphrase: &Secret) -> Result<Unlocked, LuksError> {
    place.check_paths()?;
    let claim = claim(&place.backing, 0)?;
    let keys = Keys { passphrase: Some(passphrase), ..Keys::default() };
    match aside::run(place, &Access::ByPath, Work::Unlock, keys)? {
        Done::Key(uuid, Some(dek)) => Ok(Unlocked { place: place.clone(), uuid, dek, _claim: claim }),
        _ => Err(LuksError::aside(place, "sent no key")),
    }
}

impl Unlocked {
    /// The volume's UUID.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The volume's key.
    pub fn dek(&self) -> &Dek {
        &self.dek
    }

    /// Adds `token`, in one change of the header as [`Header::replace_token`] makes it, and reads it back. Keyslots stay.
    pub fn adopt(self, token: &Token) -> Result<Header, LuksError> {
        let work = Work::AddToken { uuid: self.uuid, token: token.clone() };
        let header = aside::run(&self.place, &Access::ByPath, work, Keys::default())?.header(&self.place)?;
        match header.token == *token {
            true => Ok(header),
            false => Err(LuksError::OtherVolume(self.place.header_path().to_owned())),
        }
    }
}
