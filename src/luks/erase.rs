//! The end of a volume: what opens it is destroyed.

use uuid::Uuid;

use super::copies::{Copies, Facts};
use super::{LuksError, Place, Placement, claim, probe};

/// Overwrites all that opens the volume `uuid` at `place`: both copies of its header, with the token, and the keyslots. Refused
/// while somebody uses it, and where another volume is there. The rest of the backing stays as it is.
pub fn erase(place: &Place, uuid: Uuid) -> Result<(), LuksError> {
    let path = place.header_path();
    let backing = claim(&place.backing, 0)?;
    let file = match &place.header {
        Placement::Attached => backing,
        Placement::Detached(header) => claim(header, 0)?,
    };
    let copies = Copies::read(&file, path)?;
    let of_volume = |facts: &&Facts| Uuid::try_parse(&facts.uuid) == Ok(uuid);
    let facts = copies.facts().filter(of_volume).ok_or_else(|| LuksError::OtherVolume(path.to_owned()))?;
    let length = facts.area_length();
    let length =
        length.ok_or_else(|| LuksError::unsupported(path, "it does not say how long its header is"))?;
    probe::zero(&file, 0, length)
        .and_then(|()| file.sync_all())
        .map_err(|e| LuksError::io("erase the header of", path, e))
}
