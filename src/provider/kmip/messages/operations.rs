//! Each operation's request and response payload (KMIP 1.4, 4).

use ublk_targets::secret::{KEK_LEN, Kek, Secret, SecretError};

use super::codes::{
    ALGORITHM_AES, FORMAT_RAW, MASK_ENCRYPT_DECRYPT, NAME_TEXT, OBJECT_SYMMETRIC_KEY, QUERY_OPERATIONS,
    QUERY_SERVER, tag,
};
use super::envelope::write_version;
use super::{AnswerError, Operation, Version};
use crate::provider::kmip::{one_line, ttlv};
use crate::provider::{KekId, KekState, Revocation};
use ttlv::{Encoder, Structure};

const KEK_BITS: i32 = 8 * KEK_LEN as i32;
/// What the name of every KEK begins with that blkseal has made.
pub const NAME_PREFIX: &str = "blkseal-";

// Attributes are named by text until KMIP 2.0 (3.1 and the sections after it).
const ALGORITHM: &str = "Cryptographic Algorithm";
const LENGTH: &str = "Cryptographic Length";
const USAGE: &str = "Cryptographic Usage Mask";
const NAME: &str = "Name";
const GROUP: &str = "Object Group";
const OBJECT_TYPE: &str = "Object Type";
const STATE: &str = "State";
const INITIAL_DATE: &str = "Initial Date";

fn attribute(encoder: &mut Encoder, name: &str, value: impl FnOnce(&mut Encoder)) {
    encoder.structure(tag::ATTRIBUTE, |encoder| {
        encoder.text(tag::ATTRIBUTE_NAME, name);
        value(encoder);
    });
}

/// Asks which of our versions the server speaks (4.26).
pub fn write_discover(encoder: &mut Encoder) {
    Version::SPOKEN.into_iter().for_each(|version| write_version(encoder, version));
}

/// The versions that the server speaks, the one it likes best first.
pub fn read_versions(payload: &Structure<'_>) -> Result<Vec<Version>, AnswerError> {
    let version = |item: ttlv::Item<'_>| {
        let version = item.structure()?;
        Ok(Version {
            major: version.get(tag::PROTOCOL_VERSION_MAJOR)?.integer()?,
            minor: version.get(tag::PROTOCOL_VERSION_MINOR)?.integer()?,
        })
    };
    payload.all(tag::PROTOCOL_VERSION).map(version).collect()
}

/// Asks what the server is and can do (4.25).
pub fn write_query(encoder: &mut Encoder) {
    encoder.enumeration(tag::QUERY_FUNCTION, QUERY_OPERATIONS);
    encoder.enumeration(tag::QUERY_FUNCTION, QUERY_SERVER);
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The operations that it supports, of those that blkseal knows.
    pub operations: Vec<Operation>,
    /// Who made it, in one line.
    pub vendor: Option<String>,
}

/// What the server is and can do.
pub fn read_query(payload: &Structure<'_>) -> Result<Query, AnswerError> {
    let mut query = Query::default();
    for item in payload.all(tag::OPERATION) {
        query.operations.extend(Operation::from_code(item.enumeration()?));
    }
    if let Some(vendor) = payload.find(tag::VENDOR_IDENTIFICATION) {
        query.vendor = Some(one_line(vendor.text()?));
    }
    Ok(query)
}

/// Asks for a new KEK (4.1) with this name, in this object group.
pub fn write_create(encoder: &mut Encoder, name: &str, group: &str) {
    encoder.enumeration(tag::OBJECT_TYPE, OBJECT_SYMMETRIC_KEY);
    encoder.structure(tag::TEMPLATE_ATTRIBUTE, |template| {
        attribute(template, ALGORITHM, |value| value.enumeration(tag::ATTRIBUTE_VALUE, ALGORITHM_AES));
        attribute(template, LENGTH, |value| value.integer(tag::ATTRIBUTE_VALUE, KEK_BITS));
        attribute(template, USAGE, |value| value.integer(tag::ATTRIBUTE_VALUE, MASK_ENCRYPT_DECRYPT));
        attribute(template, NAME, |value| {
            value.structure(tag::ATTRIBUTE_VALUE, |value| {
                value.text(tag::NAME_VALUE, name);
                value.enumeration(tag::NAME_TYPE, NAME_TEXT);
            });
        });
        write_group(template, group);
    });
}

fn write_group(encoder: &mut Encoder, group: &str) {
    attribute(encoder, GROUP, |value| value.text(tag::ATTRIBUTE_VALUE, group));
}

/// Names the object that something is to be done with: all of the payload of Activate (4.19) and Destroy (4.21).
pub fn write_identifier(encoder: &mut Encoder, id: &KekId) {
    encoder.text(tag::UNIQUE_IDENTIFIER, id.as_str());
}

/// The object that something was done with.
pub fn read_identifier(payload: &Structure<'_>) -> Result<KekId, AnswerError> {
    kek_id(payload.get(tag::UNIQUE_IDENTIFIER)?.text()?)
}

fn kek_id(text: &str) -> Result<KekId, AnswerError> {
    text.parse().map_err(|_| AnswerError::Senseless("an identifier is empty, too long or not printable"))
}

/// Asks for every KEK of an object group (4.9).
pub fn write_locate(encoder: &mut Encoder, group: &str) {
    attribute(encoder, OBJECT_TYPE, |value| value.enumeration(tag::ATTRIBUTE_VALUE, OBJECT_SYMMETRIC_KEY));
    write_group(encoder, group);
}

/// The objects that were found. An identifier that blkseal cannot keep is not of a KEK that it made.
pub fn read_located(payload: &Structure<'_>) -> Vec<KekId> {
    payload.all(tag::UNIQUE_IDENTIFIER).filter_map(|item| kek_id(item.text().ok()?).ok()).collect()
}

/// Asks for what [`read_attributes`] reads (4.12).
pub fn write_attributes_wanted(encoder: &mut Encoder, id: &KekId) {
    write_identifier(encoder, id);
    for name in [STATE, INITIAL_DATE, GROUP, NAME, ALGORITHM, LENGTH] {
        encoder.text(tag::ATTRIBUTE_NAME, name);
    }
}

/// What blkseal wants to know of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Where it is in its life.
    pub state: KekState,
    /// When it was made, in seconds since 1970, where the server tells.
    pub created: Option<i64>,
    /// The object groups that it is in, where the server tells.
    pub groups: Vec<String>,
    /// Its names, where the server tells.
    pub names: Vec<String>,
    /// Whether it is an AES key of 256 bits, as far as the server tells.
    pub is_aes_256: bool,
}

impl Attributes {
    /// Whether it is a KEK of blkseal in the object group `group`: as the server says, or, where it tells no group, by
    /// its name.
    pub fn is_of(&self, group: &str) -> bool {
        match self.groups.is_empty() {
            true => self.names.iter().any(|name| name.starts_with(NAME_PREFIX)),
            false => self.groups.iter().any(|own| own == group),
        }
    }
}

/// The attributes of the object `id`.
pub fn read_attributes(payload: &Structure<'_>, id: &KekId) -> Result<Attributes, AnswerError> {
    check_identifier(payload, id)?;
    let mut found = Attributes {
        state: KekState::Destroyed,
        created: None,
        groups: Vec::new(),
        names: Vec::new(),
        is_aes_256: true,
    };
    let mut state = None;
    for item in payload.all(tag::ATTRIBUTE) {
        let item = item.structure()?;
        let value = item.get(tag::ATTRIBUTE_VALUE)?;
        match item.get(tag::ATTRIBUTE_NAME)?.text()? {
            STATE => state = KekState::from_code(value.enumeration()?),
            INITIAL_DATE => found.created = Some(value.date_time()?),
            GROUP => found.groups.push(value.text()?.to_owned()),
            NAME => found.names.push(value.structure()?.get(tag::NAME_VALUE)?.text()?.to_owned()),
            ALGORITHM => found.is_aes_256 &= value.enumeration()? == ALGORITHM_AES,
            LENGTH => found.is_aes_256 &= value.integer()? == KEK_BITS,
            _ => {}
        }
    }
    found.state = state.ok_or(AnswerError::Senseless("the key's state is missing or unknown"))?;
    Ok(found)
}

/// Asks for the bytes of a key (4.11).
pub fn write_get(encoder: &mut Encoder, id: &KekId) {
    write_identifier(encoder, id);
    encoder.enumeration(tag::KEY_FORMAT_TYPE, FORMAT_RAW);
}

/// Why a key could not be taken from an answer.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The answer is not that key.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Memory for the key could not be had.
    #[error(transparent)]
    Memory(#[from] SecretError),
}

impl From<ttlv::TtlvError> for KeyError {
    fn from(error: ttlv::TtlvError) -> Self {
        Self::Answer(error.into())
    }
}

/// The KEK `id`: 32 bytes of AES key in the clear, copied once, from the message into secret pages.
pub fn read_key(payload: &Structure<'_>, id: &KekId) -> Result<Kek, KeyError> {
    check_identifier(payload, id)?;
    if payload.get(tag::OBJECT_TYPE)?.enumeration()? != OBJECT_SYMMETRIC_KEY {
        return Err(AnswerError::Senseless("the object is not a symmetric key").into());
    }
    let block = payload.get(tag::SYMMETRIC_KEY)?.structure()?.get(tag::KEY_BLOCK)?.structure()?;
    if block.find(tag::KEY_WRAPPING_DATA).is_some() || block.find(tag::KEY_COMPRESSION_TYPE).is_some() {
        return Err(AnswerError::Senseless("the key is wrapped or compressed").into());
    }
    if block.get(tag::KEY_FORMAT_TYPE)?.enumeration()? != FORMAT_RAW {
        return Err(AnswerError::Senseless("the key is in another format than was asked for").into());
    }
    let material = block.get(tag::KEY_VALUE)?.structure()?.get(tag::KEY_MATERIAL)?.bytes()?;
    let is_aes_256 = block.get(tag::CRYPTOGRAPHIC_ALGORITHM)?.enumeration()? == ALGORITHM_AES
        && block.get(tag::CRYPTOGRAPHIC_LENGTH)?.integer()? == KEK_BITS
        && material.len() == KEK_LEN;
    if !is_aes_256 {
        return Err(AnswerError::Senseless("the key is not an AES key of 256 bits").into());
    }
    let mut secret = Secret::zeroed(KEK_LEN)?;
    secret.expose_mut().copy_from_slice(material);
    Ok(Kek::from_secret(secret)?)
}

/// Takes a key out of use (4.20); `now`, in seconds since 1970, is when a compromise is taken to have happened.
pub fn write_revoke(encoder: &mut Encoder, id: &KekId, why: Revocation, now: i64) {
    write_identifier(encoder, id);
    encoder.structure(tag::REVOCATION_REASON, |reason| {
        reason.enumeration(tag::REVOCATION_REASON_CODE, why.code());
    });
    if why == Revocation::Compromise {
        encoder.date_time(tag::COMPROMISE_OCCURRENCE_DATE, now);
    }
}

/// That the answer is about the object that was asked for.
pub fn check_identifier(payload: &Structure<'_>, id: &KekId) -> Result<(), AnswerError> {
    match payload.get(tag::UNIQUE_IDENTIFIER)?.text()? == id.as_str() {
        true => Ok(()),
        false => Err(AnswerError::Senseless("the answer is about another key")),
    }
}
