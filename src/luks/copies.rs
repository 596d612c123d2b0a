//! The two copies of a LUKS2 header, as they are: libcryptsetup repairs one from the other in silence, and locks and writes
//! for that. Layout and checksum: LUKS2 On-Disk Format Specification 1.1.1, 2.1 and 2.2.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::LuksError;

const PRIMARY_MAGIC: &[u8] = b"LUKS\xba\xbe";
const SECONDARY_MAGIC: &[u8] = b"SKUL\xba\xbe";
/// The binary part; JSON follows it.
const BINARY_LEN: usize = 4096;
/// A copy's length may be 16 KiB times a power of two up to 4 MiB; the second starts where the first ends.
const LENGTHS: [u64; 9] = [1 << 14, 1 << 15, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22];

/// One of the two copies of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderCopy {
    /// The one at offset 0.
    Primary,
    /// The one behind it.
    Secondary,
}

impl fmt::Display for HeaderCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        })
    }
}

/// What a copy was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Its checksum matches.
    Good(Facts),
    /// Something else is there; `magic` tells whether the first bytes are still those of a header.
    Bad { magic: bool },
}

/// What a good copy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    length: u64,
    sequence: u64,
    json: Vec<u8>,
    /// The label, or nothing.
    pub label: Option<String>,
    /// The volume's UUID, as text.
    pub uuid: String,
}

impl Facts {
    /// The metadata, if it is JSON at all.
    pub fn json(&self) -> serde_json::Result<Value> {
        serde_json::from_slice(&self.json)
    }

    /// Bytes from the start of the primary copy to the end of the keyslots.
    pub fn area_length(&self) -> Option<u64> {
        let keyslots: u64 = self.json().ok()?["config"]["keyslots_size"].as_str()?.parse().ok()?;
        // The format's own limit.
        (keyslots <= 128 << 20).then_some(2 * self.length + keyslots)
    }

    /// Whether the data is elsewhere than this header, at the very start of what holds it.
    pub fn is_detached(&self) -> bool {
        let json = self.json().unwrap_or_default();
        let segments = json["segments"].as_object().into_iter().flatten();
        let offsets: Vec<_> = segments.map(|(_, segment)| segment["offset"].as_str()).collect();
        !offsets.is_empty() && offsets.iter().all(|offset| *offset == Some("0"))
    }
}

/// Both copies.
pub struct Copies {
    primary: Found,
    secondary: Found,
}

impl Copies {
    /// Reads both copies of the header in `file`, which messages call `path`. Fails if there is none, or no good one.
    pub fn read(file: &File, path: &Path) -> Result<Self, LuksError> {
        let failed = |e| LuksError::io("read the header of", path, e);
        forget_cached(file);
        let mut head = [0; 8];
        read_at(file, &mut head, 0).map_err(failed)?;
        if head == *b"LUKS\xba\xbe\x00\x01" {
            return Err(LuksError::Luks1(path.to_owned()));
        }
        let primary = examine(file, 0, LENGTHS.as_slice(), PRIMARY_MAGIC).map_err(failed)?;
        let secondary = match &primary {
            Found::Good(facts) => {
                examine(file, facts.length, &[facts.length], SECONDARY_MAGIC).map_err(failed)?
            }
            Found::Bad { .. } => search_secondary(file).map_err(failed)?,
        };
        match (&primary, &secondary) {
            (Found::Bad { magic: false }, Found::Bad { magic: false }) => {
                Err(LuksError::NotLuks(path.to_owned()))
            }
            (Found::Bad { .. }, Found::Bad { .. }) => Err(LuksError::Damaged(path.to_owned())),
            _ => Ok(Self { primary, secondary }),
        }
    }

    /// The copy that is damaged, or older than the other.
    pub fn damaged(&self) -> Option<HeaderCopy> {
        match (&self.primary, &self.secondary) {
            (Found::Bad { .. }, _) => Some(HeaderCopy::Primary),
            (_, Found::Bad { .. }) => Some(HeaderCopy::Secondary),
            (Found::Good(one), Found::Good(two)) if one.sequence < two.sequence => Some(HeaderCopy::Primary),
            (Found::Good(one), Found::Good(two)) if one.sequence > two.sequence => {
                Some(HeaderCopy::Secondary)
            }
            _ => None,
        }
    }

    /// What the newest good copy says.
    pub fn facts(&self) -> Option<&Facts> {
        match (&self.primary, &self.secondary) {
            (Found::Good(one), Found::Good(two)) => Some(if two.sequence > one.sequence { two } else { one }),
            (Found::Good(facts), _) | (_, Found::Good(facts)) => Some(facts),
            _ => None,
        }
    }
}

/// Another host may have changed the header since this one has read it last, as far as the kernel can forget that.
fn forget_cached(file: &File) {
    let whole = 2 * LENGTHS[LENGTHS.len() - 1] as i64;
    // Advice: where it is not taken, what is read may be old.
    let _ = posix_fadvise(file, 0, whole, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// The UUID in the LUKS2 header on `path`, where there is one that is not damaged. Nothing is repaired.
pub fn uuid_at(path: &Path) -> Option<Uuid> {
    let kind = fs::metadata(path).ok()?.file_type();
    if !(kind.is_file() || kind.is_block_device()) {
        return None; // opening it may have no end
    }
    let copies = Copies::read(&File::open(path).ok()?, path).ok()?;
    Uuid::try_parse(&copies.facts()?.uuid).ok()
}

/// The secondary copy, where the primary one no longer tells its place.
fn search_secondary(file: &File) -> io::Result<Found> {
    let mut magic = false;
    for length in LENGTHS {
        match examine(file, length, &[length], SECONDARY_MAGIC)? {
            Found::Bad { magic: seen } => magic |= seen,
            good => return Ok(good),
        }
    }
    Ok(Found::Bad { magic })
}

/// The copy at `offset`, which must have one of `lengths`.
fn examine(file: &File, offset: u64, lengths: &[u64], magic: &[u8]) -> io::Result<Found> {
    let mut copy = vec![0; BINARY_LEN];
    if read_at(file, &mut copy, offset)? < copy.len() || !copy.starts_with(magic) {
        return Ok(Found::Bad { magic: false });
    }
    let bad = Found::Bad { magic: true };
    let length = number(&copy, 8);
    if copy[6..8] != [0, 2] || !lengths.contains(&length) || number(&copy, 256) != offset {
        return Ok(bad);
    }
    copy.resize(length as usize, 0);
    if read_at(file, &mut copy, offset)? < copy.len() {
        return Ok(bad);
    }
    let stored: [u8; 32] = std::array::from_fn(|index| copy[448 + index]);
    copy[448..512].fill(0);
    // libcryptsetup writes SHA-256 only; a header of another maker under another hash is its own to judge.
    if text(&copy[72..104]) == "sha256" && Sha256::digest(&copy)[..] != stored {
        return Ok(bad);
    }
    let label = Some(text(&copy[24..72])).filter(|label| !label.is_empty());
    let (sequence, uuid) = (number(&copy, 16), text(&copy[168..208]));
    let json = until_zero(&copy[BINARY_LEN..]).to_vec();
    Ok(Found::Good(Facts { length, sequence, json, label, uuid }))
}

/// Reads up to the end of `buffer` or of the file, and says how many bytes there were.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn number(copy: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|index| copy[at + index]))
}

/// The text in a field that zeroes fill up.
fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(until_zero(field)).into_owned()
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}
