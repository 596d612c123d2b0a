//! What can go wrong with key servers, and with the settings that lead to them.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ublk_targets::secret::SecretError;

use super::ServerAddress;
use super::messages::{AnswerError, KeyError, Operation, Reason};
use crate::provider::wrap::WrapError;
use crate::provider::{KekId, KekState};

/// What a password's file is called in messages.
pub(super) const PASSWORD: &str = "password file";

const MEMORY_HINT: &str = "raise the limit of locked memory: LimitMEMLOCK=infinity in the unit, or 'ulimit -l unlimited' in the shell";

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
    /// A key is of a type that this host has nothing for.
    #[error("{} holds a {what}, which blkseal cannot use", path.display())]
    KeyType {
        /// The file.
        path: PathBuf,
        /// What it holds, and of which type it is, in words.
        what: String,
    },
    /// This host's certificate, or one of its chain, is not good now. It may be renewed at any time.
    #[error("the client certificate {} {problem}", path.display())]
    Dates {
        /// The file.
        path: PathBuf,
        /// Whose it is, and since or until when it is not good.
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
    /// A file with a secret is somebody else's.
    #[error("{what} {} is owned by user {owner}, who is neither root nor the user of this process", path.display())]
    Owner {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The number of its owner.
        owner: u32,
    },
    /// Memory for a secret could not be had.
    #[error(transparent)]
    Memory(#[from] SecretError),
}

impl ConfigError {
    /// What to do about it, as one sentence for the person who reads the message.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Setting(_) => "`blkseal provider add kmip --help` tells what can be set, and to what",
            Self::File { .. } => "put it there, readable by the user that the daemon runs as, usually root",
            Self::Content { what, .. } if *what == PASSWORD => {
                "write the password on its first line, in UTF-8"
            }
            Self::Content { .. } => {
                "put a file in PEM there: each certificate or key between its BEGIN and END lines"
            }
            Self::KeyType { .. } => {
                "use keys of type ECDSA P-256 or P-384, Ed25519, or RSA with 2048 bits or more, without a passphrase"
            }
            Self::Dates { .. } => {
                "have it renewed by who signed it, and put it in its place; check this host's clock, too"
            }
            Self::Exposed { .. } => "let only its owner read it: chmod 600",
            Self::Owner { .. } => "make it root's: chown root",
            Self::Memory(_) => MEMORY_HINT,
        })
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
    /// The server found nothing in common: no cipher, or no type of key.
    #[error("TLS failed: it has no cipher, or no type of key, in common with blkseal")]
    NothingInCommon,
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
    /// It has the KEK, in a state that keeps it from unwrapping.
    #[error("there the KEK is {0}")]
    State(KekState),
    /// The KEK that it gives does not unwrap the DEK.
    #[error("the KEK that it gives does not fit")]
    Unfit(#[from] WrapError),
    /// It made a KEK other than it was asked for.
    #[error("the key that it made is {0}")]
    MadeOther(&'static str),
    /// The key is not one of this provider's.
    #[error("there the key is not in the provider's object group, but in {0}")]
    Foreign(String),
    /// It made a KEK that could be neither activated nor destroyed.
    #[error("KEK {id} was made there, and is left without having become active")]
    Left {
        /// The KEK.
        id: KekId,
        /// Why it is not active.
        #[source]
        cause: Box<Fault>,
    },
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
    /// The reason, where the server is well and decided to refuse.
    pub(super) fn refusal(&self) -> Option<Reason> {
        match self {
            Self::Answer(AnswerError::Refused { reason, .. }) if reason.is_decision() => Some(*reason),
            Self::Left { cause, .. } => cause.refusal(),
            _ => None,
        }
    }

    /// Whether the server is well and gave an answer that another server may give better; asked again, it would give
    /// the same.
    pub(super) fn is_final(&self) -> bool {
        self.refusal().is_some() || matches!(self, Self::State(_) | Self::Unfit(_) | Self::MadeOther(_))
    }

    /// Whether the server decided that it has no such key.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.refusal(), Some(Reason::NotFound | Reason::Destroyed))
    }

    /// Whether it is an answer, and none to what was asked.
    pub(super) fn is_nonsense(&self) -> bool {
        matches!(self, Self::Answer(AnswerError::Ttlv(_) | AnswerError::Senseless(_)))
    }

    /// Whether it is this host's, so that no other server could do better.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Config(_) | Self::Memory(_) | Self::Foreign(_) => true,
            Self::Unfit(error) => !matches!(error, WrapError::OtherKek),
            _ => false,
        }
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
            Self::Answer(AnswerError::Refused { reason: Reason::Unwell(_), .. }) => {
                "have the key server's administrator look at what is behind it, its database for one; its log tells more"
            }
            Self::Version
            | Self::Answer(AnswerError::Refused { operation: Operation::DiscoverVersions, .. }) => {
                "have the key server's administrator enable KMIP 1.4, which servers of KMIP 2 and later have beside it"
            }
            Self::Answer(AnswerError::Refused { reason: Reason::NotSupported, .. }) | Self::Lacks(_) => {
                "have the key server's administrator enable these for this host: Create, Locate, Get, Get Attributes, \
                 Activate, Revoke, Destroy"
            }
            Self::Answer(AnswerError::Refused { .. }) => "the key server's log tells more",
            Self::Answer(_) => {
                "check that the address is that of a KMIP server, and its log; `blkseal provider check` tells what it is"
            }
            Self::Resolve(_) | Self::Connect(_) | Self::Timeout { .. } | Self::Broken(_) => {
                "check the address, the network and the key server"
            }
            Self::Proxy { .. } => {
                "have the proxy allow CONNECT to the key server's address and port, or do without --proxy"
            }
            Self::NothingInCommon => {
                "have the server offer TLS 1.2 or 1.3 with ECDHE and AES-GCM or ChaCha20, and a certificate with a key of type \
                 ECDSA P-256 or P-384, Ed25519 or RSA; P-521 is none of them"
            }
            Self::Tls(_) => {
                "check that the port is that of KMIP, 5696 as a rule, and that the server speaks TLS 1.2 or 1.3"
            }
            Self::State(state) if state.is_destroyed() => "only a recovery passphrase opens its volumes now",
            Self::State(_) => "activate it with `blkseal kek activate`",
            Self::Unfit(_) => "the servers of a provider must have the same keys: ask their administrator",
            Self::MadeOther(_) => {
                "have the key server's administrator let this host set and read Object Group and Name of its keys"
            }
            Self::Foreign(_) => "change it where it was made: by another provider, or at the key server",
            Self::Left { .. } => "destroy it at the key server, where nothing needs it",
            Self::Config(error) => return error.hint(),
            Self::Memory(_) => MEMORY_HINT,
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
