//! Names of volumes and providers.

use serde::{Deserialize, Serialize};

/// A name that is safe in a path, a systemd unit and a shell: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a letter
/// or digit, and not the text form of a UUID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' cannot be a name: use 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit, and no UUID"
)]
pub struct NameError(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let first = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
        if first && text.len() <= 64 && text.chars().all(allowed) && uuid::Uuid::try_parse(&text).is_err() {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
