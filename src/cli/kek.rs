//! `blkseal kek`: the keys that wrap volumes' keys.

use clap::{Args, Subcommand};

use super::confirm::Confirmation;
use super::help;
use super::output::{BAD, Cell, GOOD, WAITING, fields, table};
use super::session::Session;
use super::values::KekArgument;
use crate::control::{self, Failure, KekState, Keks, Name};

/// Volumes that a line of the table names at most.
const SHOWN: usize = 3;

/// KEKs: the keys of providers, which wrap volumes' keys
///
/// A KEK is named with its provider: PROVIDER/KEK.
#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true, after_long_help = help::examples(help::KEK))]
pub enum Kek {
    List(List),
    Show(Show),
    Create(Create),
    Activate(Activate),
    Revoke(Revoke),
    Destroy(Destroy),
}

/// List KEKs, and which volumes need each
///
/// A KEK of unknown state is one that volumes need and the provider does not know, or does not give out.
#[derive(Debug, Args)]
#[command(visible_alias = "ls")]
pub struct List {
    /// Whose [default: all providers']
    provider: Option<Name>,
}

/// Show all about a KEK
#[derive(Debug, Args)]
pub struct Show {
    /// Which one
    #[arg(value_name = "PROVIDER/KEK")]
    kek: KekArgument,
}

/// Make a KEK; new volumes use it from then on
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::KEK_CREATE))]
pub struct Create {
    /// Where [default: the default provider]
    provider: Option<Name>,
    /// Let it wrap nothing until it is activated
    #[arg(long)]
    inactive: bool,
}

/// Make a KEK active that was made inactive
#[derive(Debug, Args)]
pub struct Activate {
    /// Which one
    #[arg(value_name = "PROVIDER/KEK")]
    kek: KekArgument,
}

/// Take a KEK out of use: it wraps no more keys, and still unwraps
///
/// There is no way back. Volumes that need it open with a warning until 'blkseal rekey --kek' has given them another.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::KEK_REVOKE))]
pub struct Revoke {
    /// Which one
    #[arg(value_name = "PROVIDER/KEK")]
    kek: KekArgument,
    /// Say that it is known or feared to be in other hands
    #[arg(long)]
    compromised: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

/// Make an end of a KEK that was revoked or never activated
///
/// There is no way back. Refused while a volume that this host knows needs it. Volumes that only other hosts know, and
/// backups of headers, are lost with it unless they have a recovery passphrase. Copies of a native provider's file that
/// were made before still have the KEK.
#[derive(Debug, Args)]
pub struct Destroy {
    /// Which one
    #[arg(value_name = "PROVIDER/KEK")]
    kek: KekArgument,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Kek {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        let output = session.output;
        let asking = "asking the key provider";
        match self {
            Self::List(List { provider }) => {
                let answer = daemon.call_slow(asking, &control::KekList { provider }, &[])?;
                if !output.is_json() {
                    answer.problems.iter().for_each(|problem| log::warn!("{problem}"));
                }
                output.answer(&answer, text)
            }
            Self::Show(Show { kek: KekArgument { provider, kek_id } }) => {
                output.answer(&daemon.call_slow(asking, &control::KekShow { provider, kek_id }, &[])?, all)
            }
            Self::Create(Create { provider, inactive }) => output.answer(
                &daemon.call_slow(asking, &control::KekCreate { provider, inactive }, &[])?,
                sentence,
            ),
            Self::Activate(Activate { kek: KekArgument { provider, kek_id } }) => output.answer(
                &daemon.call_slow(asking, &control::KekActivate { provider, kek_id }, &[])?,
                sentence,
            ),
            Self::Revoke(Revoke { kek: KekArgument { provider, kek_id }, compromised, confirmation }) => {
                confirmation.ask(&format!("Take KEK {kek_id} of {provider} out of use for good?"))?;
                let call = control::KekRevoke { provider, kek_id, compromised };
                output
                    .answer(&daemon.call_slow(asking, &call, &[])?, |kek| sentence(kek) + &still_needed(kek))
            }
            Self::Destroy(Destroy { kek: KekArgument { provider, kek_id }, confirmation }) => {
                let question = format!("Destroy KEK {kek_id} of {provider}, and what only it opens?");
                confirmation.ask(&question)?;
                let call = control::KekDestroy { provider, kek_id };
                output.answer(&daemon.call_slow(asking, &call, &[])?, sentence)
            }
        }
    }
}

fn sentence(kek: &control::Kek) -> String {
    let current = if kek.is_current { "; new volumes use it" } else { "" };
    format!("KEK {} of {} is {}{current}\n", kek.kek_id, kek.provider, word(kek.state))
}

fn still_needed(kek: &control::Kek) -> String {
    match kek.volumes.len() {
        0 => String::new(),
        1 => format!("volume {} still needs it: see 'blkseal rekey --kek'\n", kek.volumes[0]),
        count => format!("{count} volumes still need it: see 'blkseal rekey --kek'\n"),
    }
}

fn word(state: Option<KekState>) -> &'static str {
    match state {
        Some(KekState::PreActive) => "not active yet",
        Some(KekState::Active) => "active",
        Some(KekState::Deactivated) => "deactivated",
        Some(KekState::Compromised) => "compromised",
        Some(KekState::Destroyed) => "destroyed",
        Some(KekState::DestroyedCompromised) => "destroyed, compromised",
        None => "unknown",
    }
}

fn state(kek: &control::Kek) -> Cell {
    let word = word(kek.state);
    match kek.state {
        Some(KekState::Active) => Cell::styled(word, GOOD),
        Some(KekState::Deactivated) => Cell::styled(word, WAITING),
        Some(KekState::Compromised) | None => Cell::styled(word, BAD),
        Some(KekState::PreActive | KekState::Destroyed | KekState::DestroyedCompromised) => word.into(),
    }
}

/// How many volumes, and the first of them by name.
fn volumes(volumes: &[Name], shown: usize) -> String {
    let names: Vec<&str> = volumes.iter().take(shown).map(Name::as_str).collect();
    match volumes.len() {
        0 => "0".into(),
        count if count > shown => format!("{count}: {}, ...", names.join(", ")),
        count => format!("{count}: {}", names.join(", ")),
    }
}

fn created(kek: &control::Kek) -> Cell {
    kek.created.as_deref().unwrap_or("-").into()
}

fn text(Keks { keks, problems }: &Keks) -> String {
    if keks.is_empty() && problems.is_empty() {
        return "no KEKs; make one with 'blkseal kek create PROVIDER'\n".into();
    }
    let rows = keks.iter().map(|kek| {
        [
            Cell::from(&kek.provider),
            (&kek.kek_id).into(),
            state(kek),
            (if kek.is_current { "yes" } else { "" }).into(),
            created(kek),
            volumes(&kek.volumes, SHOWN).into(),
        ]
    });
    table(["PROVIDER", "KEK", "STATE", "CURRENT", "CREATED", "VOLUMES"], rows.collect())
}

fn all(kek: &control::Kek) -> String {
    fields(&[
        ("provider", (&kek.provider).into()),
        ("kek", (&kek.kek_id).into()),
        ("state", state(kek)),
        ("new volumes", (if kek.is_current { "use it" } else { "do not use it" }).into()),
        ("created", created(kek)),
        ("volumes", volumes(&kek.volumes, usize::MAX).into()),
    ])
}
