//! Reading a volume's header, checking a DEK against it, and exchanging its token.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use libcryptsetup_rs::{CryptDevice, TokenInput};
use serde::{Deserialize, Serialize};
use ublk_targets::secret::{Dek, scrub_stack};
use uuid::Uuid;

use super::copies::{Copies, Facts};
use super::metadata::{DataArea, Metadata};
use super::{HeaderCopy, Keyslot, LuksError, Place, Placement, Token, claim, crypt};

/// More than the frames of PBKDF2, Argon2 and AES in libcryptsetup and its crypto library use.
pub(super) const STACK_USED: usize = 64 * 1024;

/// A volume's header as it was when it was read. The calls that check or change it read it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the volume is.
    pub place: Place,
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
    Ok(load(place)?.header)
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
    pub uuid: Uuid,
    pub metadata: Metadata,
    place: Place,
    label: Option<String>,
    area: DataArea,
    data_length: u64,
    repair: Option<Repair>,
}

pub(super) fn load(place: &Place) -> Result<Loaded, LuksError> {
    find(place)?.with_token()
}

pub(super) fn find(place: &Place) -> Result<Found, LuksError> {
    place.check_paths()?;
    let path = place.header_path();
    let backing_size = size_of(place)?;
    let copies = Copies::read(path)?;
    let mut device = crypt::load(place).map_err(|error| match (error, copies.damaged()) {
        (LuksError::Library { path, detail: reason, .. }, Some(copy)) => {
            LuksError::NotRepaired { path, copy, reason }
        }
        (error, _) => error,
    })?;
    let json = device.status_handle().dump_json().map_err(crypt::failed("read the metadata of", path))?;
    let metadata = Metadata::from_json(path, json)?;
    let area = metadata.data_area(path)?;
    let data_length = data_length(place, &area, backing_size)?;
    let (uuid, label) = identity(place, copies.facts())?;
    let repair = repaired(place, &copies)?;
    Ok(Found { device, uuid, metadata, place: place.clone(), label, area, data_length, repair })
}

impl Found {
    fn with_token(self) -> Result<Loaded, LuksError> {
        let path = self.place.header_path().to_owned();
        let (token_slot, token) =
            self.metadata.token().map_err(|source| LuksError::Token { path, source })?;
        let header = Header {
            place: self.place,
            uuid: self.uuid,
            label: self.label,
            sector_size: self.area.sector_size,
            data_offset: self.area.offset,
            data_length: self.data_length,
            allow_discards: self.metadata.allows_discards(),
            token,
            keyslots: self.metadata.keyslots(),
            repair: self.repair,
        };
        Ok(Loaded { header, device: self.device, token_slot })
    }
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
        let loaded = load(&self.place)?;
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

/// The backing's size in bytes.
fn size_of(place: &Place) -> Result<u64, LuksError> {
    let path = &place.backing;
    let end = File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0)));
    end.map_err(|e| LuksError::io("open", path, e))
}

fn data_length(place: &Place, area: &DataArea, size: u64) -> Result<u64, LuksError> {
    let path = place.backing.clone();
    if place.header == Placement::Attached && area.offset == 0 {
        return Err(LuksError::unsupported(
            &path,
            "it is a detached header, whose backing has to be named too",
        ));
    }
    let sector_size = u64::from(area.sector_size);
    let minimum = area.length.unwrap_or(sector_size).saturating_add(area.offset);
    if size < minimum {
        return Err(LuksError::TooSmall { path, size, minimum });
    }
    let length = area.length.unwrap_or(size - area.offset);
    if !length.is_multiple_of(sector_size) {
        return Err(LuksError::PartialSector { path, size, sector_size: area.sector_size });
    }
    Ok(length)
}

fn identity(place: &Place, facts: Option<&Facts>) -> Result<(Uuid, Option<String>), LuksError> {
    let path = place.header_path();
    let facts = facts.ok_or_else(|| LuksError::Damaged(path.to_owned()))?;
    let uuid = Uuid::parse_str(&facts.uuid)
        .map_err(|_| LuksError::unsupported(path, format!("{:?} is not a UUID", facts.uuid)))?;
    Ok((uuid, facts.label.clone()))
}

/// What loading the header repaired: looked at again, for libcryptsetup does not tell.
fn repaired(place: &Place, before: &Copies) -> Result<Option<Repair>, LuksError> {
    let Some(copy) = before.damaged() else { return Ok(None) };
    let path = place.header_path();
    match Copies::read(path)?.damaged() {
        None => Ok(Some(Repair { copy })),
        Some(copy) => Err(LuksError::NotRepaired {
            path: path.to_owned(),
            copy,
            reason: "libcryptsetup did not write it".into(),
        }),
    }
}
