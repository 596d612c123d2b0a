//! A LUKS2 volume of another maker becomes one of blkseal's: its key is taken out once, and its header gets a token.

use std::fs::File;

use libcryptsetup_rs::{CryptDevice, TokenInput};
use ublk_targets::secret::{DEK_LEN, Dek, Secret, scrub_stack};
use uuid::Uuid;

use super::files::Access;
use super::header::{Found, STACK_USED, find};
use super::{Header, LuksError, Place, Token, TokenError, claim, crypt, open};

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
    let mut found = find_foreign(place)?;
    let dek = key_of(&mut found.device, place, passphrase)?;
    Ok(Unlocked { place: place.clone(), uuid: found.described.uuid, dek, _claim: claim })
}

/// The volume at `place`, if it has no token.
fn find_foreign(place: &Place) -> Result<Found, LuksError> {
    let found = find(place, &Access::ByPath)?;
    let path = || place.header_path().to_owned();
    match found.described.metadata.token() {
        Err(TokenError::Missing) => Ok(found),
        Err(source) => Err(LuksError::Token { path: path(), source }),
        Ok(_) => Err(LuksError::Adopted(path())),
    }
}

/// The volume's key, from libcryptsetup straight into secret pages. It has been checked against the header's digest.
fn key_of(device: &mut CryptDevice, place: &Place, passphrase: &Secret) -> Result<Dek, LuksError> {
    let path = place.header_path();
    let mut key = Secret::zeroed(DEK_LEN)?;
    let got = device.volume_key_handle().get(None, key.expose_mut(), Some(passphrase.expose()));
    scrub_stack::<STACK_USED>();
    match got {
        Ok((_, DEK_LEN)) => Ok(Dek::from_secret(key)?),
        Ok((_, length)) => {
            Err(LuksError::unsupported(path, format!("its key has {} bits instead of 512", length * 8)))
        }
        Err(error) => Err(match crypt::errno(&error) {
            Some(libc::EPERM | libc::ENOENT) => LuksError::WrongPassphrase(path.to_owned()),
            _ => crypt::failed("take the key out of", path)(error),
        }),
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
        let path = self.place.header_path();
        let other = || LuksError::OtherVolume(path.to_owned());
        // What is changed is the header as it is now, which other programs can have changed.
        let mut found = find_foreign(&self.place)?;
        if found.described.uuid != self.uuid {
            return Err(other());
        }
        let mut tokens = found.device.token_handle();
        let added = tokens.json_set(TokenInput::AddToken(&token.to_json()));
        added.map_err(crypt::failed("write the token of", path))?;
        let header = open(&self.place)?;
        if (header.uuid, &header.token) == (self.uuid, token) { Ok(header) } else { Err(other()) }
    }
}
