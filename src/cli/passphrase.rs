//! Passphrases and key files: read from where the user says, straight into secret memory.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use clap::Args;
use ublk_targets::secret::{Secret, SecretError, process};

use super::terminal::{LONGEST_LINE, Line, Terminal};
use super::values;
use crate::control::{Failure, FailureKind, MAX_SECRET};

/// Where a passphrase or key comes from. Without an option it is asked for on the terminal.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct SecretSource {
    /// Take the key from FILE, every byte of it, or from standard input ('-')
    ///
    /// The content is used exactly as it is, a newline at its end included, as cryptsetup does. 1 to 8192 bytes.
    #[arg(long, value_name = "FILE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_file: Option<String>,
    /// Take the passphrase from descriptor N: one line, without its newline
    ///
    /// Reads up to the first newline or the end, and nothing beyond, so that several lines of one descriptor serve
    /// several commands. 1 to 8192 bytes.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::number::<i32>(0..=1_048_575))]
    passphrase_fd: Option<RawFd>,
}

/// Where a new passphrase or key comes from, beside that of now. Without an option it is asked for on the terminal, twice.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct NewSecretSource {
    /// Take the new key from FILE, every byte of it, or from standard input ('-')
    #[arg(long, value_name = "FILE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    new_key_file: Option<String>,
    /// Take the new passphrase from descriptor N: one line, without its newline
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::number::<i32>(0..=1_048_575))]
    new_passphrase_fd: Option<RawFd>,
}

impl NewSecretSource {
    /// Reads the secret of `what`.
    pub fn read(self, what: &str) -> Result<Secret, Failure> {
        SecretSource { key_file: self.new_key_file, passphrase_fd: self.new_passphrase_fd }
            .read(Ask::New(what))
    }
}

/// Whether a passphrase is to be chosen or to be known.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// A new one, asked for twice.
    New(&'a str),
    /// One that was set before.
    Known(&'a str),
}

impl SecretSource {
    /// Reads the secret; `ask` is for the terminal.
    pub fn read(&self, ask: Ask<'_>) -> Result<Secret, Failure> {
        match (&self.key_file, self.passphrase_fd) {
            (Some(name), _) => read_key_file(name),
            (None, Some(fd)) => read_line_of(fd),
            (None, None) => ask_on_terminal(ask),
        }
    }
}

fn read_key_file(name: &str) -> Result<Secret, Failure> {
    let (mut file, name) = match name {
        "-" => (descriptor(0)?, "standard input".to_owned()),
        path => (open_key_file(path)?, format!("key file {path}")),
    };
    forbid_dumps()?;
    refuse_terminal(&file, &name)?;
    let mut secret = pages(MAX_SECRET + 1)?; // a byte more shows that a file is too long
    let mut filled = 0;
    while filled < secret.len() {
        match file.read(&mut secret.expose_mut()[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&name, &error)),
        }
    }
    finish(secret, filled, &name)
}

fn open_key_file(path: &str) -> Result<File, Failure> {
    let file = File::open(path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => FailureKind::NoInput,
            io::ErrorKind::PermissionDenied => FailureKind::NotPermitted,
            _ => FailureKind::Io,
        };
        Failure::new(kind, format!("cannot open key file {path}: {error}"))
    })?;
    let metadata = file.metadata().map_err(|error| unreadable(path, &error))?;
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        log::warn!(
            "key file {path} is open to other users (mode {:04o}): chmod 600 it",
            metadata.mode() & 0o7777
        );
    }
    Ok(file)
}

fn read_line_of(fd: RawFd) -> Result<Secret, Failure> {
    let name = format!("descriptor {fd}");
    let mut file = descriptor(fd)?;
    forbid_dumps()?;
    refuse_terminal(&file, &name)?;
    let mut secret = pages(MAX_SECRET + 1)?;
    let mut filled = 0;
    // A byte at a time: what follows the newline is for somebody else.
    while filled < secret.len() {
        let next = &mut secret.expose_mut()[filled..=filled];
        match file.read(next) {
            Ok(0) => break,
            Ok(_) if next[0] == b'\n' => break,
            Ok(_) => filled += 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&name, &error)),
        }
    }
    finish(secret, filled, &format!("the passphrase on {name}"))
}

fn ask_on_terminal(ask: Ask<'_>) -> Result<Secret, Failure> {
    let terminal = Terminal::open().map_err(|_| {
        usage("there is no terminal to ask for a passphrase on")
            .hint("give --key-file FILE or --passphrase-fd N")
    })?;
    forbid_dumps()?;
    match ask {
        Ask::Known(what) => ask_line(&terminal, &format!("Passphrase of {what}: ")),
        Ask::New(what) => {
            let first = ask_line(&terminal, &format!("New passphrase of {what}: "))?;
            let second = ask_line(&terminal, "The same again: ")?;
            if first.expose() == second.expose() {
                Ok(first)
            } else {
                Err(usage("the two passphrases differ; nothing was done").hint("run the command again"))
            }
        }
    }
}

fn ask_line(terminal: &Terminal, prompt: &str) -> Result<Secret, Failure> {
    let mut secret = pages(LONGEST_LINE)?;
    match terminal.ask(prompt, &mut secret) {
        Ok(Line::Whole(length)) => finish(secret, length, "the passphrase"),
        Ok(Line::TooLong) => {
            let message = format!("the passphrase has more than {} bytes", LONGEST_LINE - 2);
            Err(usage(message).hint("a terminal cuts longer lines short; use --key-file or --passphrase-fd"))
        }
        Err(error) => Err(Failure::new(FailureKind::Io, format!("cannot read from the terminal: {error}"))),
    }
}

/// The first `filled` bytes of `secret`, if that is a possible number of them.
fn finish(secret: Secret, filled: usize, name: &str) -> Result<Secret, Failure> {
    match filled {
        0 => Err(usage(format!("{name} is empty")).hint("give at least one byte")),
        1..=MAX_SECRET => secret.truncated(filled).map_err(no_pages),
        _ => Err(usage(format!("{name} is longer than {MAX_SECRET} bytes")).hint("use a shorter one")),
    }
}

/// A copy of descriptor `fd` of this process.
fn descriptor(fd: RawFd) -> Result<File, Failure> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC reads its arguments only; a number that is no descriptor gives EBADF.
    match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) } {
        // SAFETY: the kernel just made this descriptor for this call alone.
        copy if copy >= 0 => Ok(File::from(unsafe { OwnedFd::from_raw_fd(copy) })),
        _ => {
            Err(usage(format!("descriptor {fd} is not open"))
                .hint(format!("open it in the shell: {fd}<FILE")))
        }
    }
}

/// What is typed at a terminal that is read like a file shows on it.
fn refuse_terminal(file: &File, name: &str) -> Result<(), Failure> {
    if file.is_terminal() {
        let hint = "leave the option out to be asked without echo";
        return Err(usage(format!("{name} is a terminal")).hint(hint));
    }
    Ok(())
}

/// Comes after a key file is open: /dev/fd of an undumpable process, where a shell's <(...) leads, is root's alone.
fn forbid_dumps() -> Result<(), Failure> {
    process::forbid_dumps().map_err(|error| {
        Failure::new(FailureKind::System, format!("cannot forbid core dumps of this process: {error}"))
    })
}

fn pages(len: usize) -> Result<Secret, Failure> {
    Secret::zeroed(len).map_err(no_pages)
}

fn no_pages(error: SecretError) -> Failure {
    let failure = Failure::from_error(FailureKind::System, &error);
    match error {
        SecretError::Limit { .. } => {
            failure.hint("raise the limit on locked memory: ulimit -l, or LimitMEMLOCK=")
        }
        _ => failure,
    }
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("cannot read {name}: {error}"))
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::InvalidArgument, message)
}
