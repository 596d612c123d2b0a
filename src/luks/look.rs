//! Looking at a header: nothing is written, nothing is locked, and libcryptsetup is not asked.

use std::path::Path;

use uuid::Uuid;

use super::copies::{Copies, Facts};
use super::files::{Access, Files};
use super::metadata::{DataArea, Metadata};
use super::{Header, LuksError, Place, Placement};

/// The header of the volume at `place`, as the newest good copy has it; [`Header::damaged`] tells of the other. Reads only.
pub fn look(place: &Place) -> Result<Header, LuksError> {
    look_through(place, &Files::open(place)?)
}

pub(super) fn look_through(place: &Place, files: &Files) -> Result<Header, LuksError> {
    let path = place.header_path();
    let size = files.size(place)?;
    let copies = Copies::read(files.header(), path)?;
    let facts = good(&copies, path)?;
    let json = facts.json();
    let json = json.map_err(|e| LuksError::unsupported(path, format!("its metadata is not JSON: {e}")))?;
    let described = Described::new(place, size, facts, Metadata::from_json(path, json)?)?;
    let (header, _) = described.with_token(Access::ByPath)?;
    Ok(Header { damaged: copies.damaged(), ..header })
}

pub(super) fn good<'c>(copies: &'c Copies, path: &Path) -> Result<&'c Facts, LuksError> {
    copies.facts().ok_or_else(|| LuksError::Damaged(path.to_owned()))
}

/// What a header says, if it is of a form that blkseal serves, whether it has a token or not.
pub(super) struct Described {
    pub place: Place,
    pub uuid: Uuid,
    pub metadata: Metadata,
    label: Option<String>,
    area: DataArea,
    data_length: u64,
}

impl Described {
    /// `size` is the backing's, in bytes.
    pub fn new(place: &Place, size: u64, facts: &Facts, metadata: Metadata) -> Result<Self, LuksError> {
        let path = place.header_path();
        let area = metadata.data_area(path)?;
        let data_length = data_length(place, &area, size)?;
        let uuid = Uuid::parse_str(&facts.uuid)
            .map_err(|_| LuksError::unsupported(path, format!("{:?} is not a UUID", facts.uuid)))?;
        Ok(Self { place: place.clone(), uuid, metadata, label: facts.label.clone(), area, data_length })
    }

    /// The header, and the number of its token.
    pub fn with_token(self, access: Access) -> Result<(Header, u32), LuksError> {
        let path = self.place.header_path();
        let token = self.metadata.token();
        let (slot, token) = token.map_err(|source| LuksError::Token { path: path.to_owned(), source })?;
        let header = Header {
            place: self.place,
            access,
            uuid: self.uuid,
            label: self.label,
            sector_size: self.area.sector_size,
            data_offset: self.area.offset,
            data_length: self.data_length,
            allow_discards: self.metadata.allows_discards(),
            token,
            keyslots: self.metadata.keyslots(),
            digest: self.metadata.digest_fingerprint(),
            damaged: None,
            repair: None,
        };
        Ok((header, slot))
    }
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
