//! The one error that crosses a socket, and its exit code.

use serde::{Deserialize, Serialize};

/// What went wrong, in a form that programs can act on. Each is a Varlink error of the same name and stands for one
/// exit code: those of sysexits.h, cryptsetup's 2 and 5 for what sysexits.h has no word for, and 6 and 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureKind {
    /// The passphrase, key file or key does not fit. Exit code 2.
    WrongKey,
    /// The volume, device or backing is in use. Exit code 5.
    Busy,
    /// The volume stays locked, and opens by itself once its KEK is to be had. Exit code 6.
    Waiting,
    /// The KEK's state forbids that, or the key server refuses it. Exit code 7.
    Refused,
    /// An argument makes no sense. Exit code 64 (EX_USAGE).
    InvalidArgument,
    /// A header, token or size is damaged or unusable. Exit code 65 (EX_DATAERR).
    BadData,
    /// A backing, header or key file is missing. Exit code 66 (EX_NOINPUT).
    NoInput,
    /// No volume, provider or KEK of that name. Exit code 67 (EX_NOUSER).
    NotFound,
    /// No daemon or no worker answers. Exit code 69 (EX_UNAVAILABLE).
    NoDaemon,
    /// A defect of blkseal itself. Exit code 70 (EX_SOFTWARE).
    Internal,
    /// The operating system refused something, a memory limit for example. Exit code 71 (EX_OSERR).
    System,
    /// The kernel has no ublk driver. Exit code 72 (EX_OSFILE).
    NoUblk,
    /// The name is taken, or the backing holds data that would be lost. Exit code 73 (EX_CANTCREAT).
    Exists,
    /// Reading or writing failed. Exit code 74 (EX_IOERR).
    Io,
    /// The KEK is not to be had now; the same command may succeed later. Exit code 75 (EX_TEMPFAIL).
    Locked,
    /// The other side speaks another protocol. Exit code 76 (EX_PROTOCOL).
    Protocol,
    /// The caller's user has no role that allows that. Exit code 77 (EX_NOPERM).
    NotPermitted,
    /// A configuration or state file is malformed. Exit code 78 (EX_CONFIG).
    Config,
}

impl FailureKind {
    /// Every kind, in the order of the exit codes.
    pub const ALL: [Self; 18] = [
        Self::WrongKey,
        Self::Busy,
        Self::Waiting,
        Self::Refused,
        Self::InvalidArgument,
        Self::BadData,
        Self::NoInput,
        Self::NotFound,
        Self::NoDaemon,
        Self::Internal,
        Self::System,
        Self::NoUblk,
        Self::Exists,
        Self::Io,
        Self::Locked,
        Self::Protocol,
        Self::NotPermitted,
        Self::Config,
    ];

    /// The exit code of a command that fails so. It never changes.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::WrongKey => 2,
            Self::Busy => 5,
            Self::Waiting => 6,
            Self::Refused => 7,
            Self::InvalidArgument => 64,
            Self::BadData => 65,
            Self::NoInput => 66,
            Self::NotFound => 67,
            Self::NoDaemon => 69,
            Self::Internal => 70,
            Self::System => 71,
            Self::NoUblk => 72,
            Self::Exists => 73,
            Self::Io => 74,
            Self::Locked => 75,
            Self::Protocol => 76,
            Self::NotPermitted => 77,
            Self::Config => 78,
        }
    }

    /// The kind with this Varlink error name, whatever interface it is of.
    pub(super) fn from_error_name(name: &str) -> Option<Self> {
        let last = name.rsplit('.').next()?;
        Self::ALL.into_iter().find(|kind| format!("{kind:?}") == last)
    }
}

/// A failure as the user sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What programs act on.
    pub kind: FailureKind,
    /// One line that names the thing and what is wrong with it.
    pub message: String,
    /// One line that says what to do, where there is something to do.
    pub hint: Option<String>,
    /// Whether it is known that the same cannot succeed later by itself.
    pub is_final: bool,
}

impl Failure {
    /// A failure without a hint, which may pass.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, is_final: false }
    }

    /// A failure from an error; the errors that caused it follow in the message, each after a colon.
    pub fn from_error(kind: FailureKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self::new(kind, message)
    }

    /// The same failure, which may pass or not.
    pub fn transient(self, is_transient: bool) -> Self {
        Self { is_final: !is_transient, ..self }
    }

    /// The same failure with a hint.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}
