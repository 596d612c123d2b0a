//! Reading a volume's header, checking a DEK against it, and exchanging its token.

use std::path::Path;
use std::sync::Arc;

use libcryptsetup_rs::{CryptDevice, TokenInput};
use serde::{Deserialize, Serialize};
use ublk_targets::secret::{Dek, scrub_stack};
use uuid::Uuid;

use super::copies::Copies;
use super::files::{Access, Files};
use super::look::{Described, good, look_through};
use super::metadata::Metadata;
use super::{HeaderCopy, Keyslot, LuksError, Place, Token, claim, crypt};

/// More than the frames of PBKDF2, Argon2 and AES in libcryptsetup and its crypto library use.
pub(super) const STACK_USED: usize = 64 * 1024;

/// A volume's header as it was when it was read. The calls that check or change it read it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the volume is.
    pub place: Place,
    /// The way to its files that later calls take.
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
    /// The copy of the header that [`open`] found damaged and had repaired.
    pub repair: Option<Repair>,
}

/// A copy of a header that was damaged, or left behind by an interrupted change, and written anew from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The copy that was bad.
    pub copy: HeaderCopy,
}

/// Reads the header of the volume at `place`. A damaged copy is repaired from the good one, and
/// [`Header::repair`] says so; nothing else is written.
pub fn open(place: &Place) -> Result<Header, LuksError> {
    open_by(place, Access::ByPath)
}

/// As [`open`], in the way of `access`, which later calls on the header take as well.
pub fn open_by(place: &Place, access: Access) -> Result<Header, LuksError> {
    Ok(load(place, &access)?.header)
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

fn load(place: &Place, access: &Access) -> Result<Loaded, LuksError> {
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

impl Header {
    /// Checks `dek` against the digest in the header (LUKS2: PBKDF2 over the volume key).
    pub fn verify(&self, dek: &Dek) -> Result<(), LuksError> {
        self.reload()?.verify(dek)
    }

    /// Puts `token` in the place of the present one. The header's two copies are written one after the other, each
    /// with its checksum and synced, so that at every instant one of the tokens is the valid one.
    pub fn replace_token(&mut self, token: Token) -> Result<(), LuksError> {
        let mut loaded = self.reload()?;
        let slot = loaded.token_slot;
        let path = self.place.header_path();
        loaded
            .device
            .token_handle()
            .json_set(TokenInput::ReplaceToken(slot, &token.to_json()))
            .map_err(crypt::failed("write the token of", path))?;
        *self = self.reload()?.header;
        Ok(())
    }

    /// Takes the token away, so that nothing but passphrases opens the volume, and blkseal is out of it. Refused while
    /// somebody uses the backing, and where there is no passphrase.
    pub fn release(self) -> Result<(), LuksError> {
        let path = self.place.header_path();
        let _claim = claim(&self.place.backing, 0)?;
        let mut loaded = self.reload()?;
        if loaded.header.keyslots.is_empty() {
            return Err(LuksError::NoPassphrase(path.to_owned()));
        }
        let slot = loaded.token_slot;
        let removed = loaded.device.token_handle().json_set(TokenInput::RemoveToken(slot));
        removed.map(drop).map_err(crypt::failed("remove the token of", path))
    }

    /// The header as it is now, if it is still this volume's.
    pub(super) fn reload(&self) -> Result<Loaded, LuksError> {
        let loaded = load(&self.place, &self.access)?;
        if loaded.header.uuid != self.uuid {
            return Err(LuksError::OtherVolume(self.place.header_path().to_owned()));
        }
        Ok(loaded)
    }
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
