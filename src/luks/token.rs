//! The LUKS2 token of type `blkseal`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::provider::wrap::{self, WRAPPED_DEK_LEN};
use crate::provider::{KekId, ProviderName};

/// The token's `type`.
pub const TOKEN_TYPE: &str = "blkseal";
const VERSION: u64 = 1;
/// Twice what the longest valid token needs, in bytes.
const MAX_LEN: usize = 2048;

/// What a volume's header says of its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Token {
    /// The provider that has the KEK.
    pub provider: ProviderName,
    /// The KEK.
    pub kek_id: KekId,
    /// The DEK under that KEK by AES-KWP.
    pub wrapped_dek: [u8; WRAPPED_DEK_LEN],
}

/// Why a header's token cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TokenError {
    /// The header has no token of type `blkseal`.
    #[error("it has no blkseal token")]
    Missing,
    /// The header has several.
    #[error("it has {0} blkseal tokens, where one is expected")]
    Several(usize),
    /// The token is longer than any that blkseal writes.
    #[error("its blkseal token has {0} bytes, more than a token can have")]
    TooLong(usize),
    /// The token is cut off, or not JSON at all.
    #[error("its blkseal token is truncated or not JSON: {0}")]
    NotJson(String),
    /// A later blkseal wrote it.
    #[error("its blkseal token has format version {0}, which this blkseal does not know")]
    Version(String),
    /// A field is missing, unknown or has a wrong value.
    #[error("its blkseal token is malformed: {0}")]
    Malformed(String),
    /// The DEK is wrapped in another way.
    #[error("its blkseal token wraps the key with {0:?}, which this blkseal does not know")]
    Wrap(String),
    /// `wrapped_dek` is not base64.
    #[error("the wrapped key in its blkseal token is not base64")]
    Base64,
    /// `wrapped_dek` has the wrong length.
    #[error("the wrapped key in its blkseal token has {0} bytes, expected {WRAPPED_DEK_LEN}")]
    WrappedLength(usize),
}

impl TokenError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing => {
                "it is a LUKS2 volume that blkseal did not make: `blkseal adopt` makes it one of its own"
            }
            Self::Version(_) | Self::Wrap(_) => "use the blkseal release that wrote it, or a later one",
            _ => "restore the header from a backup with `cryptsetup luksHeaderRestore`",
        })
    }
}

/// The JSON, with nothing left out and nothing added.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "type")]
    _type: String,
    keyslots: Vec<String>,
    #[serde(rename = "version")]
    _version: u64,
    provider: ProviderName,
    kek_id: KekId,
    wrap: String,
    wrapped_dek: String,
}

impl TryFrom<Value> for Token {
    type Error = TokenError;

    fn try_from(value: Value) -> Result<Self, TokenError> {
        Self::from_json(value)
    }
}

impl From<Token> for Value {
    fn from(token: Token) -> Self {
        token.to_json()
    }
}

impl Token {
    /// The token in the form that LUKS2 keeps it in.
    pub fn to_json(&self) -> Value {
        json!({
            "type": TOKEN_TYPE,
            "keyslots": [],
            "version": VERSION,
            "provider": self.provider,
            "kek_id": self.kek_id,
            "wrap": wrap::ALGORITHM,
            "wrapped_dek": BASE64.encode(self.wrapped_dek),
        })
    }

    /// Reads a token from its text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > MAX_LEN {
            return Err(TokenError::TooLong(text.len()));
        }
        let value = serde_json::from_str(text).map_err(|e| TokenError::NotJson(e.to_string()))?;
        Self::from_json(value)
    }

    /// Reads a token that is JSON already, as libcryptsetup gives it.
    pub fn from_json(value: Value) -> Result<Self, TokenError> {
        let length = value.to_string().len();
        if length > MAX_LEN {
            return Err(TokenError::TooLong(length));
        }
        if value.get("type").and_then(Value::as_str) != Some(TOKEN_TYPE) {
            return Err(TokenError::Malformed(format!("its type is not {TOKEN_TYPE:?}")));
        }
        // The version comes first: what the other fields are depends on it.
        match value.get("version") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(version) => return Err(TokenError::Version(version.to_string())),
            None => return Err(TokenError::Malformed("missing field `version`".into())),
        }
        let fields: Fields =
            serde_json::from_value(value).map_err(|e| TokenError::Malformed(e.to_string()))?;
        Self::from_fields(fields)
    }

    fn from_fields(fields: Fields) -> Result<Self, TokenError> {
        if !fields.keyslots.is_empty() {
            return Err(TokenError::Malformed("it is assigned to keyslots".into()));
        }
        if fields.wrap != wrap::ALGORITHM {
            return Err(TokenError::Wrap(fields.wrap));
        }
        let wrapped = BASE64.decode(&fields.wrapped_dek).map_err(|_| TokenError::Base64)?;
        let length = wrapped.len();
        let wrapped_dek = wrapped.try_into().map_err(|_| TokenError::WrappedLength(length))?;
        Ok(Self { provider: fields.provider, kek_id: fields.kek_id, wrapped_dek })
    }
}
