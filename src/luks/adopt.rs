//! A LUKS2 volume of another maker becomes one of blkseal's: its key is taken out once, and its header gets a token.

use libcryptsetup_rs::{CryptDevice, TokenInput};
use ublk_targets::secret::{DEK_LEN, Dek, Secret, scrub_stack};
use uuid::Uuid;

use super::header::{Found, STACK_USED, find};
use super::{Access, LuksError, Place, Token, TokenError, crypt, memory};

/// The UUID and the key of the volume at `place`, which has no token.
pub(super) fn take_key(
    place: &Place,
    access: &Access,
    passphrase: &Secret,
) -> Result<(Uuid, Dek), LuksError> {
    let mut found = find_foreign(place, access)?;
    // libcryptsetup tries each of them.
    memory::check(place.header_path(), found.described.metadata.derivation_memory())?;
    let dek = key_of(&mut found.device, place, passphrase)?;
    Ok((found.described.uuid, dek))
}

/// Adds `token` to the volume `uuid` at `place`, which has none.
pub(super) fn add_token(place: &Place, access: &Access, uuid: Uuid, token: &Token) -> Result<(), LuksError> {
    let path = place.header_path();
    // What is changed is the header as it is now, which other programs can have changed.
    let mut found = find_foreign(place, access)?;
    if found.described.uuid != uuid {
        return Err(LuksError::OtherVolume(path.to_owned()));
    }
    let added = found.device.token_handle().json_set(TokenInput::AddToken(&token.to_json()));
    added.map(drop).map_err(crypt::failed("write the token of", path))
}

/// The volume at `place`, if it has no token.
fn find_foreign(place: &Place, access: &Access) -> Result<Found, LuksError> {
    let found = find(place, access)?;
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
