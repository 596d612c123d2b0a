//! The JSON part of a header, as far as a volume's use depends on it (LUKS2 On-Disk Format Specification 1.1.1, 3).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use ublk_targets::secret::DEK_LEN;

use super::token::TOKEN_TYPE;
use super::{CIPHER, LuksError, Token, TokenError};

/// A recovery passphrase's place in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyslot {
    /// Its number.
    pub slot: u32,
    /// The function that its passphrase goes through, such as `argon2id`.
    pub kdf: String,
}

/// The whole JSON. What is not named here is libcryptsetup's to check.
#[derive(Deserialize)]
pub struct Metadata {
    keyslots: BTreeMap<u32, KeyslotObject>,
    tokens: BTreeMap<u32, Value>,
    segments: BTreeMap<u32, Segment>,
    digests: BTreeMap<u32, DigestObject>,
    config: Config,
}

#[derive(Deserialize)]
struct KeyslotObject {
    #[serde(rename = "type")]
    kind: String,
    key_size: usize,
    kdf: Option<Kdf>,
}

#[derive(Deserialize)]
struct Kdf {
    #[serde(rename = "type")]
    kind: String,
    /// KiB that Argon2 takes.
    memory: Option<u64>,
}

#[derive(Deserialize)]
struct DigestObject {
    keyslots: Vec<String>,
    segments: Vec<String>,
    /// What makes it the digest of one key: kind, hash, iterations, salt and digest.
    #[serde(flatten)]
    of_key: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    requirements: Requirements,
}

#[derive(Default, Deserialize)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    iv_tweak: Option<String>,
    encryption: Option<String>,
    sector_size: Option<u32>,
    integrity: Option<Value>,
    #[serde(default)]
    flags: Vec<String>,
}

/// Where the data is and how it is cut into sectors. Sizes are in bytes.
pub struct DataArea {
    /// Where it starts on the backing.
    pub offset: u64,
    /// Its length, or none for all that the backing has.
    pub length: Option<u64>,
    /// 512 or 4096.
    pub sector_size: u32,
}

impl Metadata {
    /// Reads the JSON that libcryptsetup gives.
    pub fn from_json(path: &Path, value: Value) -> Result<Self, LuksError> {
        serde_json::from_value(value)
            .map_err(|e| LuksError::unsupported(path, format!("its metadata is not understood: {e}")))
    }

    /// The one data segment, if it is what blkseal serves: AES-256-XTS by 512-byte LBA, nothing under way, nothing
    /// around it.
    pub fn data_area(&self, path: &Path) -> Result<DataArea, LuksError> {
        let unsupported = |what: String| LuksError::unsupported(path, what);
        if let Some(requirement) = self.config.requirements.mandatory.first() {
            return Err(unsupported(match requirement.contains("reencrypt") {
                true => {
                    "a re-encryption by cryptsetup is under way; finish it with `cryptsetup reencrypt`".into()
                }
                false => format!("it requires {requirement:?}"),
            }));
        }
        let [segment] = self.segments.values().collect::<Vec<_>>()[..] else {
            return Err(unsupported(format!("it has {} data segments instead of one", self.segments.len())));
        };
        segment.check().map_err(unsupported)?;
        if let Some(slot) = self.bound().find(|(_, keyslot)| keyslot.key_size != DEK_LEN) {
            return Err(unsupported(format!("its key has {} bits instead of 512", slot.1.key_size * 8)));
        }
        let number = |text: &str| text.parse().map_err(|_| unsupported(format!("{text:?} is not a size")));
        let length = if segment.size == "dynamic" { None } else { Some(number(&segment.size)?) };
        let sector_size = segment.sector_size.unwrap_or_default();
        Ok(DataArea { offset: number(&segment.offset)?, length, sector_size })
    }

    /// Whether the header allows discards to be passed down (`allow-discards`, as dm-crypt knows it).
    pub fn allows_discards(&self) -> bool {
        self.config.flags.iter().any(|flag| flag == "allow-discards")
    }

    /// The slots whose passphrase opens the data.
    pub fn keyslots(&self) -> Vec<Keyslot> {
        let kdf =
            |object: &KeyslotObject| object.kdf.as_ref().map_or_else(String::new, |kdf| kdf.kind.clone());
        self.bound().map(|(&slot, object)| Keyslot { slot, kdf: kdf(object) }).collect()
    }

    /// Bytes of memory that it takes to try a passphrase on each of these slots, one after the other.
    pub fn derivation_memory(&self) -> u64 {
        let costs = self.bound().filter_map(|(_, object)| object.kdf.as_ref()?.memory);
        costs.max().unwrap_or_default().saturating_mul(1024)
    }

    /// The one token of type `blkseal`, and its number.
    pub fn token(&self) -> Result<(u32, Token), TokenError> {
        let is_ours = |value: &Value| value.get("type").and_then(Value::as_str) == Some(TOKEN_TYPE);
        let ours: Vec<_> = self.tokens.iter().filter(|(_, value)| is_ours(value)).collect();
        match ours[..] {
            [(&number, value)] => Ok((number, Token::from_json(value.clone())?)),
            [] => Err(TokenError::Missing),
            _ => Err(TokenError::Several(ours.len())),
        }
    }

    /// The SHA-256, in hexadecimal, of the digest of the data's key: the same as long as that key is. It tells of the key no more
    /// than the digest does.
    pub fn digest_fingerprint(&self) -> String {
        let of_data = self.digests.values().filter(|digest| !digest.segments.is_empty());
        let content: Vec<_> = of_data.map(|digest| json!(digest.of_key).to_string()).collect();
        Sha256::digest(content.join("\n")).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The keyslots bound to a digest of a data segment.
    fn bound(&self) -> impl Iterator<Item = (&u32, &KeyslotObject)> {
        let of_data = |slot: &u32| {
            let slot = slot.to_string();
            self.digests.values().any(|digest| !digest.segments.is_empty() && digest.keyslots.contains(&slot))
        };
        self.keyslots.iter().filter(move |(slot, object)| object.kind == "luks2" && of_data(slot))
    }
}

impl Segment {
    fn check(&self) -> Result<(), String> {
        if self.kind != "crypt" {
            return Err(format!("its data segment is of type {:?}", self.kind));
        }
        match self.encryption.as_deref() {
            Some(CIPHER) => {}
            other => return Err(format!("its cipher is {} instead of {CIPHER}", other.unwrap_or("missing"))),
        }
        if self.integrity.is_some() {
            return Err("it has integrity protection (dm-integrity), which blkseal does not serve".into());
        }
        if self.iv_tweak.as_deref() != Some("0") {
            return Err("its first sector does not have number 0 (iv_tweak)".into());
        }
        if let Some(flag) = self.flags.first() {
            return Err(format!("its data segment has the flag {flag:?}"));
        }
        match self.sector_size {
            Some(512 | 4096) => Ok(()),
            other => Err(format!("its sector size is {} instead of 512 or 4096", other.unwrap_or_default())),
        }
    }
}
