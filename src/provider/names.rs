//! Names of providers and KEKs, checked once where they come in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a provider name.
    #[error(
        "{0:?} is not a provider name: 1 to 64 letters, digits, dots, underscores and hyphens, the first a letter or digit"
    )]
    Provider(String),
    /// Not a KEK id.
    #[error("{0:?} is not a KEK id: 1 to 255 printable ASCII characters without spaces")]
    Kek(String),
}

/// A provider's name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ProviderName(String);

/// The identifier of a KEK at its provider: 1 to 255 printable ASCII characters without spaces, for a KMIP server
/// chooses them as it likes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KekId(String);

impl TryFrom<String> for ProviderName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        let rest_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = (1..=64).contains(&name.len())
            && name.as_bytes()[0].is_ascii_alphanumeric()
            && name.bytes().all(rest_allowed);
        if good { Ok(Self(name)) } else { Err(NameError::Provider(shortened(name))) }
    }
}

impl TryFrom<String> for KekId {
    type Error = NameError;

    fn try_from(id: String) -> Result<Self, NameError> {
        let good = (1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(id)) } else { Err(NameError::Kek(shortened(id))) }
    }
}

/// Keeps what an error quotes to one line of bounded length.
fn shortened(name: String) -> String {
    match name.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype!(ProviderName);
text_newtype!(KekId);
