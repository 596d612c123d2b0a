//! The bytes of a native provider's file. `docs/FORMAT.md` has the table.
//!
//! Parsing is strict: one byte that blkseal would not have written makes the file damaged. What is read here is
//! intact (SHA-256), but not yet known to be genuine: that takes the sealing key (see `KeyFile::seal`).

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::kdf::{KdfCost, SALT_LEN};
use crate::provider::KekState;

const MAGIC: &[u8; 16] = b"blkseal native\r\n";
/// Version 1 knew the states from active to compromised only; it is read, and written no more.
const VERSION: u32 = 2;
const FIRST_VERSION: u32 = 1;
const HEAD_LEN: usize = 144;
const TAIL_LEN: usize = WRAPPED_DIGEST_LEN + DIGEST_LEN;
const RECORD_LEN: usize = 72;

/// Bytes of the wrapped root: two AES-256 keys and a semiblock.
pub const WRAPPED_ROOT_LEN: usize = 72;
/// Bytes of a wrapped KEK.
pub const WRAPPED_KEK_LEN: usize = 40;
/// Bytes of the SHA-256 of what comes before it.
pub const DIGEST_LEN: usize = 32;
/// Bytes of that digest wrapped under the seal key.
pub const WRAPPED_DIGEST_LEN: usize = 40;
/// The most KEKs a file holds.
pub const MAX_RECORDS: usize = 65_536;
/// The longest file, in bytes.
pub const MAX_LEN: u64 = (HEAD_LEN + MAX_RECORDS * RECORD_LEN + TAIL_LEN) as u64;

/// One KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its id.
    pub id: Uuid,
    /// Seconds since 1970 at which it was made.
    pub created: u64,
    /// What it may be used for.
    pub state: KekState,
    /// The KEK under the wrapping half of the root; zeroes once it is destroyed.
    pub wrapped: [u8; WRAPPED_KEK_LEN],
}

/// What is in the place of a KEK that is destroyed.
pub const DESTROYED: [u8; WRAPPED_KEK_LEN] = [0; WRAPPED_KEK_LEN];

/// A file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// What the derivation of the sealing key costs.
    pub cost: KdfCost,
    /// Its salt.
    pub salt: [u8; SALT_LEN],
    /// The root under the sealing key.
    pub wrapped_root: [u8; WRAPPED_ROOT_LEN],
    /// The KEKs, oldest first.
    pub records: Vec<Record>,
}

/// What makes a parsed file genuine: `wrapped` must unwrap to `digest` under the seal half of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// SHA-256 of head and records.
    pub digest: [u8; DIGEST_LEN],
    /// The same, wrapped.
    pub wrapped: [u8; WRAPPED_DIGEST_LEN],
}

impl KeyFile {
    /// The bytes that the seal covers: head and records.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEAD_LEN + self.records.len() * RECORD_LEN);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&VERSION.to_le_bytes());
        self.cost.parameters().iter().for_each(|number| body.extend_from_slice(&number.to_le_bytes()));
        body.extend_from_slice(&self.salt);
        body.extend_from_slice(&self.wrapped_root);
        body.extend_from_slice(&(self.records.len() as u64).to_le_bytes());
        for record in &self.records {
            body.extend_from_slice(record.id.as_bytes());
            body.extend_from_slice(&record.created.to_le_bytes());
            body.extend_from_slice(&u64::from(record.state.code()).to_le_bytes());
            body.extend_from_slice(&record.wrapped);
        }
        body
    }

    /// Reads a whole file. The error says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Seal), String> {
        let body_len = bytes.len().checked_sub(TAIL_LEN).filter(|&len| len >= HEAD_LEN);
        let body_len = body_len.ok_or_else(|| format!("{} bytes are too few", bytes.len()))?;
        let (body, mut tail) = bytes.split_at(body_len);
        if !body.starts_with(MAGIC) {
            return Err("it is not a blkseal native provider file".into());
        }
        let digest: [u8; DIGEST_LEN] = Sha256::digest(body).into();
        let wrapped = take(&mut tail)?;
        if take::<DIGEST_LEN>(&mut tail)? != digest {
            return Err("its checksum does not match".into());
        }
        let file = Self::parse_body(&body[MAGIC.len()..])?;
        Ok((file, Seal { digest, wrapped }))
    }

    fn parse_body(mut rest: &[u8]) -> Result<Self, String> {
        let rest = &mut rest;
        let version = u32::from_le_bytes(take(rest)?);
        if !(FIRST_VERSION..=VERSION).contains(&version) {
            return Err(format!(
                "format version {version} is unknown to this blkseal, which knows {FIRST_VERSION} to {VERSION}"
            ));
        }
        let [memory_kib, passes, lanes] = [take(rest)?, take(rest)?, take(rest)?].map(u32::from_le_bytes);
        let cost =
            KdfCost::new(memory_kib, passes, lanes).ok_or("its Argon2id parameters are out of range")?;
        let (salt, wrapped_root) = (take(rest)?, take(rest)?);
        let count = usize::try_from(u64::from_le_bytes(take(rest)?)).map_err(|e| e.to_string())?;
        if count > MAX_RECORDS || rest.len() != count * RECORD_LEN {
            return Err(format!("{count} keys do not fit its length"));
        }
        let records = (0..count).map(|_| parse_record(rest, version)).collect::<Result<_, _>>()?;
        Ok(Self { cost, salt, wrapped_root, records })
    }
}

/// A whole file: body, wrapped digest, digest.
pub fn sealed(mut body: Vec<u8>, seal: &Seal) -> Vec<u8> {
    body.extend_from_slice(&seal.wrapped);
    body.extend_from_slice(&seal.digest);
    body
}

fn parse_record(rest: &mut &[u8], version: u32) -> Result<Record, String> {
    let record = Record {
        id: Uuid::from_bytes(take(rest)?),
        created: u64::from_le_bytes(take(rest)?),
        state: state_of(u64::from_le_bytes(take(rest)?), version)?,
        wrapped: take(rest)?,
    };
    if record.state.is_destroyed() != (record.wrapped == DESTROYED) {
        return Err(format!("key {} is {}, which its bytes belie", record.id, record.state));
    }
    Ok(record)
}

fn state_of(number: u64, version: u32) -> Result<KekState, String> {
    let state = u32::try_from(number).ok().and_then(KekState::from_code);
    let known = state.filter(|&state| {
        version > FIRST_VERSION
            || matches!(state, KekState::Active | KekState::Deactivated | KekState::Compromised)
    });
    known.ok_or_else(|| format!("key state {number} is unknown"))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it ends too early")?;
    *rest = tail;
    Ok(*head)
}
