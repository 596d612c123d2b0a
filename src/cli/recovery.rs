//! `blkseal recovery`: passphrases with which stock cryptsetup opens a volume.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::confirm::Confirmation;
use super::passphrase::{Ask, SecretSource};
use super::session::{Daemon, Session};
use super::values::VolumeArgument;
use super::{help, status, values};
use crate::control::{self, Failure, RecoveryAdded, RecoveryRemoved, SecretFd};

/// Recovery passphrases: open a volume with stock cryptsetup, without blkseal
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true, after_long_help = help::examples(help::RECOVERY))]
pub enum Recovery {
    Add(Add),
    List(List),
    Remove(Remove),
}

/// Add a recovery passphrase in a keyslot of the LUKS2 header
///
/// The passphrase is asked for twice on the terminal unless --key-file or --passphrase-fd says where it is. Whoever
/// has it and the backing can read the volume.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::RECOVERY_ADD))]
pub struct Add {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
    #[command(flatten)]
    secret: SecretSource,
}

/// List the keyslots that hold recovery passphrases
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct List {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
}

/// Remove one recovery passphrase, or all of them
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::RECOVERY_REMOVE))]
pub struct Remove {
    /// Its name, its UUID, or the path of its backing (with a '/')
    volume: VolumeArgument,
    #[command(flatten)]
    which: Which,
    /// Remove the last one, too, although its KEK does not open the volume now: its data may be lost
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The one in this keyslot, 0 to 31
    #[arg(long, value_name = "N", value_parser = values::number::<u32>(0..=31))]
    keyslot: Option<u32>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// The keyslots that hold recovery passphrases.
#[derive(Debug, Serialize)]
struct Keyslots {
    keyslots: Vec<u32>,
}

impl Recovery {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        match self {
            Self::Add(verb) => {
                let added = verb.add(&mut daemon).map_err(|failure| verb.volume.explain(failure))?;
                session.output.answer(&added, |RecoveryAdded { keyslot }| {
                    format!("the recovery passphrase of {} is in keyslot {keyslot}\n", verb.volume.text())
                })
            }
            Self::List(List { volume }) => {
                let answer = daemon.call(&control::Status { volume: volume.text() });
                let answer = answer.map_err(|failure| volume.explain(failure))?;
                session.output.answer(&Keyslots { keyslots: answer.recovery_keyslots }, |answer| {
                    format!("{}: {}\n", volume.text(), status::keyslots(&answer.keyslots))
                })
            }
            Self::Remove(Remove { volume, which, force, confirmation }) => {
                let which_ones = match which.keyslot {
                    Some(keyslot) => format!("the recovery passphrase in keyslot {keyslot}"),
                    None => "all recovery passphrases".into(),
                };
                confirmation.ask(&format!("Remove {which_ones} of {}?", volume.text()))?;
                let call = control::RecoveryRemove { volume: volume.text(), keyslot: which.keyslot, force };
                let answer = daemon.call(&call).map_err(|failure| volume.explain(failure))?;
                session.output.answer(&answer, |RecoveryRemoved { keyslots }| {
                    format!("{}: removed {}\n", volume.text(), status::keyslots(keyslots))
                })
            }
        }
    }
}

impl Add {
    fn add(&self, daemon: &mut Daemon) -> Result<RecoveryAdded, Failure> {
        let volume = self.volume.text();
        // Nobody is asked for the passphrase of what is not there.
        let name = daemon.call(&control::Status { volume: volume.clone() })?.name;
        let secret = self.secret.read(Ask::New(&format!("volume {name}")))?;
        let call = control::RecoveryAdd { volume, secret: SecretFd(0) };
        daemon.call_slow("adding the passphrase", &call, &[&secret])
    }
}
