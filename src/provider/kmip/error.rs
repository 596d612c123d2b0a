//! What can go wrong with key servers, and with the settings that lead to them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ublk_targets::secret::SecretError;

use super::ServerAddress;
use super::messages::{AnswerError, KeyError, Operation, Reason};

/// Why a provider's settings, or the files that they name, cannot be used. No server is to blame.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
    /// A file cannot be read.
    #[error("cannot read {what} {}", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is no {what}: {problem}", path.display())]
    Content {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file with a secret is open to others.
    #[error("{what} {} can be read by others than its owner (mode {mode:03o})", path.display())]
    Exposed {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Memory for a secret could not be had.
    #[error(transparent)]
    Memory(#[from] SecretError),
}

impl ConfigError {
    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Exposed { .. }).then_some("let only its owner read it: chmod 600")
    }
}

/// Why one server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its name has no address.
    #[error("no address: {0}")]
    Resolve(String),
    /// No connection came about.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The proxy did not let us through.
    #[error("the proxy {proxy} {problem}")]
    Proxy {
        /// The proxy.
        proxy: ServerAddress,
        /// What it did.
        problem: String,
    },
    /// It took too long.
    #[error("no {waiting_for} within {} ms", limit.as_millis())]
    Timeout {
        /// What was waited for.
        waiting_for: &'static str,
        /// How long.
        limit: Duration,
    },
    /// Its certificate is not to be trusted.
    #[error("its certificate {0}")]
    Certificate(String),
    /// It does not accept our certificate.
    #[error("it does not accept this host's certificate: {0}")]
    Unaccepted(String),
    /// TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    /// It speaks no version that blkseal speaks.
    #[error("it speaks no KMIP version from 1.1 to 1.4")]
    Version,
    /// It lacks operations that blkseal cannot do without.
    #[error("it does not support {}", list(.0))]
    Lacks(Vec<Operation>),
    /// Its answer is none.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// Our side of it: the settings or their files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Our side of it: memory for the key.
    #[error(transparent)]
    Memory(#[from] SecretError),
}

fn list(operations: &[Operation]) -> String {
    operations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Answer(error) => error.into(),
            KeyError::Memory(error) => error.into(),
        }
    }
}

impl Fault {
    /// The reason, where the server is well and refused.
    pub(super) fn refusal(&self) -> Option<Reason> {
        match self {
            Self::Answer(AnswerError::Refused { reason, .. }) => Some(*reason),
            _ => None,
        }
    }

    /// Whether it is this host's, so that no other server could do better.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Memory(_))
    }

    /// The fault and the whole chain of its causes, in one line.
    pub fn line(&self) -> String {
        chain(self)
    }

    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Certificate(_) => {
                "check the authority or pinned certificate, the server's name and its certificate's dates; \
                 --trust-on-first-use shows what the server presents"
            }
            Self::Unaccepted(_) => "have the key server's administrator accept this host's certificate",
            Self::Answer(AnswerError::Refused {
                reason: Reason::Authentication | Reason::Permission,
                ..
            }) => "have the key server's administrator give this host's certificate the permission",
            Self::Resolve(_) | Self::Connect(_) | Self::Timeout { .. } | Self::Broken(_) => {
                "check the address, the network and the key server"
            }
            Self::Config(error) => return error.hint(),
            _ => return None,
        })
    }
}

/// What one server did not do.
#[derive(Debug, thiserror::Error)]
#[error("key server {server}")]
pub struct ServerError {
    /// The server.
    pub server: ServerAddress,
    /// Why.
    #[source]
    pub fault: Fault,
}

impl ServerError {
    /// The server and the whole chain of causes, in one line.
    pub fn line(&self) -> String {
        chain(self)
    }
}

/// An error and the whole chain of its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}

/// `text` in one line of bounded length, for what servers say ends up in messages and logs.
pub(super) fn one_line(text: &str) -> String {
    text.chars().take(200).map(|character| if character.is_control() { ' ' } else { character }).collect()
}
