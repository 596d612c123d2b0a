//! Reading a volume's header, checking a DEK against it, and exchanging its token.

use std::path::Path;

use libcryptsetup_rs::{CryptDevice, TokenInput};
use serde::{Deserialize, Serialize};
use ublk_targets::secret::{Dek, scrub_stack};
use uuid::Uuid;

use super::copies::Copies;
use super::files::{Access, Files};
use super::look::{Described, good};
use super::metadata::Metadata;
use super::{HeaderCopy, Keyslot, LuksError, Place, Token, claim, crypt};

/// More than the frames of PBKDF2, Argon2 and AES in libcryptsetup and its crypto library use.
pub(super) const STACK_USED: usize = 64 * 1024;

/// A volume's header as it was when it was read. The calls that check or change it read it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Where the volume is.
    pub place: Place,
    /// The way to its files that later calls take.
    #[serde(skip)]
    pub access: Access,
    /// The volume's UUID.
    pub uuid: Uuid,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Bytes in a sector: 512 or 4096.
    pub sector_size: u32,
    /// Where data starts on the backing, in bytes.
    pub data_offset: u64,
    /// How much data there is, in bytes: a whole number of sectors.
    pub data_length: u64,
    /// Whether discards are passed down (LUKS2's persistent flag `allow-discards`).
    pub allow_discards: bool,
    /// Provider, KEK and wrapped DEK.
    pub token: Token,
    /// The recovery passphrases.
    pub keyslots: Vec<Keyslot>,
    /// The fingerprint of the digest of its key: another one says that it has another key, as after `cryptsetup reencrypt`.
    pub digest: String,
    /// The copy that [`look`](super::look()) found damaged, or older than the other, and left so.
    pub damaged: Option<HeaderCopy>,
    /// The copy of the header that [`open`](super::open) found damaged and had repaired.
    pub repair: Option<Repair>,
}

/// A copy of a header that was damaged, or left behind by an interrupted change, and written anew from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The copy that was bad.
    pub copy: HeaderCopy,
}

/// A header and libcryptsetup's handle on it.
pub(super) struct Loaded {
    pub header: Header,
    pub device: CryptDevice,
    token_slot: u32,
}

/// A LUKS2 volume of a form that blkseal serves, whether it has a token or not.
pub(super) struct Found {
    pub device: CryptDevice,
    pub described: Described,
    repair: Option<Repair>,
}

pub(super) fn load(place: &Place, access: &Access) -> Result<Loaded, LuksError> {
    let Found { device, described, repair } = find(place, access)?;
    let (header, token_slot) = described.with_token(access.clone())?;
    Ok(Loaded { header: Header { repair, ..header }, device, token_slot })
}

pub(super) fn find(place: &Place, access: &Access) -> Result<Found, LuksError> {
    place.check_paths()?;
    let path = place.header_path();
    let files = access.files(place)?;
    let size = files.size(place)?;
    let copies = Copies::read(files.header(), path)?;
    files.check_unlocked(place)?;
    let mut device =
        crypt::load(place, &access.place(place)).map_err(|error| match (error, copies.damaged()) {
            (LuksError::Library { path, detail: reason, .. }, Some(copy)) => {
                LuksError::NotRepaired { path, copy, reason }
            }
            (error, _) => error,
        })?;
    let json = device.status_handle().dump_json().map_err(crypt::failed("read the metadata of", path))?;
    let described = Described::new(place, size, good(&copies, path)?, Metadata::from_json(path, json)?)?;
    let repair = repaired(path, &files, &copies)?;
    Ok(Found { device, described, repair })
}

/// The header at `place` as it is now, if it is still that of the volume `uuid`.
pub(super) fn load_known(place: &Place, access: &Access, uuid: Uuid) -> Result<Loaded, LuksError> {
    let loaded = load(place, access)?;
    if loaded.header.uuid != uuid {
        return Err(LuksError::OtherVolume(place.header_path().to_owned()));
    }
    Ok(loaded)
}

/// Takes the token of the volume `uuid` away.
pub(super) fn release(place: &Place, access: &Access, uuid: Uuid) -> Result<(), LuksError> {
    let path = place.header_path();
    let _claim = claim(&place.backing, 0)?;
    let mut loaded = load_known(place, access, uuid)?;
    if loaded.header.keyslots.is_empty() {
        return Err(LuksError::NoPassphrase(path.to_owned()));
    }
    let slot = loaded.token_slot;
    let removed = loaded.device.token_handle().json_set(TokenInput::RemoveToken(slot));
    removed.map(drop).map_err(crypt::failed("remove the token of", path))
}

impl Loaded {
    pub fn verify(&mut self, dek: &Dek) -> Result<(), LuksError> {
        let path = self.header.place.header_path();
        let verified = self.device.volume_key_handle().verify(dek.expose());
        scrub_stack::<STACK_USED>();
        verified.map_err(|error| match crypt::errno(&error) {
            Some(libc::EPERM | libc::EINVAL) => LuksError::WrongKey(path.to_owned()),
            _ => crypt::failed("check the key of", path)(error),
        })
    }

    pub fn replace_token(&mut self, token: &Token) -> Result<(), LuksError> {
        let input = &token.to_json();
        let replaced = self.device.token_handle().json_set(TokenInput::ReplaceToken(self.token_slot, input));
        let path = self.header.place.header_path();
        replaced.map(drop).map_err(crypt::failed("write the token of", path))
    }
}

/// What loading the header repaired: looked at again, for libcryptsetup does not tell.
fn repaired(path: &Path, files: &Files, before: &Copies) -> Result<Option<Repair>, LuksError> {
    let Some(copy) = before.damaged() else { return Ok(None) };
    match Copies::read(files.header(), path)?.damaged() {
        None => Ok(Some(Repair { copy })),
        Some(copy) => Err(LuksError::NotRepaired {
            path: path.to_owned(),
            copy,
            reason: "libcryptsetup did not write it".into(),
        }),
    }
}
