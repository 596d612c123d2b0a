//! What people are shown of a certificate, and what it is pinned by.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_cert::der::{Decode, Encode};

use super::one_line;

/// The SHA-256 of a certificate's DER, written as `openssl x509 -fingerprint -sha256` writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of this certificate.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// Why a text is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons between bytes")]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let bad = || FingerprintError(text.chars().take(120).collect());
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        let digits: Vec<u8> = bare.bytes().filter(|&byte| byte != b':').collect();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, FingerprintError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

/// What a certificate says, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Whom it is for, as RFC 4514 writes names, in one line.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it starts to be good.
    pub not_before: SystemTime,
    /// When it ends to be good.
    pub not_after: SystemTime,
    /// What it is pinned by.
    pub fingerprint: Fingerprint,
}

impl CertificateInfo {
    /// What the certificate in `der` says; none where it is not one.
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = x509_cert::Certificate::from_der(der).ok()?;
        let content = certificate.tbs_certificate();
        let time = |at: Duration| SystemTime::UNIX_EPOCH.checked_add(at);
        Some(Self {
            subject: one_line(&content.subject().to_string()),
            issuer: one_line(&content.issuer().to_string()),
            not_before: time(content.validity().not_before.to_unix_duration())?,
            not_after: time(content.validity().not_after.to_unix_duration())?,
            fingerprint: Fingerprint::of(der),
        })
    }
}

/// The type of the key in this DER, of a private key or a certificate, where it is one that rustls on ring has nothing for.
pub(super) fn unusable_key(der: &[u8]) -> Option<&'static str> {
    const TYPES: [(&str, &[u8]); 4] = [
        ("P-521", b"\x06\x05\x2b\x81\x04\x00\x23"),
        ("secp256k1", b"\x06\x05\x2b\x81\x04\x00\x0a"),
        ("Ed448", b"\x06\x03\x2b\x65\x71"),
        ("DSA", b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01"),
    ];
    // The signature's algorithm in a certificate says nothing of its own key.
    let key = x509_cert::Certificate::from_der(der)
        .ok()
        .and_then(|certificate| certificate.tbs_certificate().subject_public_key_info().to_der().ok());
    let key = key.as_deref().unwrap_or(der);
    let has = |oid: &[u8]| key.windows(oid.len()).any(|window| window == oid);
    TYPES.into_iter().find(|(_, oid)| has(oid)).map(|(name, _)| name)
}

/// A moment as people read it, to the second, in UTC.
pub fn date(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    x509_cert::der::DateTime::from_unix_duration(Duration::from_secs(since.as_secs()))
        .map_or_else(|_| "out of range".into(), |date| date.to_string())
}
