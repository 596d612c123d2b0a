//! The command line: arguments in, calls to the daemon, text or JSON out. A file a verb.
//!
//! | file | what it holds |
//! |---|---|
//! | `session` | the global options, the connection to the daemon |
//! | `output` | text or JSON on standard output; tables, aligned fields, colours |
//! | `report` | failures and warnings on standard error |
//! | `usage` | what clap has to say, in the form of a failure |
//! | `help` | what `--help` teaches beyond the options |
//! | `values` | arguments with a syntax of their own: sizes, paths, volumes |
//! | `passphrase`, `terminal` | secrets read straight into secret memory |
//! | `confirm` | a question before what cannot be undone |
//! | `interrupt` | Ctrl-C during long work |
//! | the others | a verb each |

mod adopt;
mod close;
mod completions;
mod confirm;
mod create;
mod daemon;
mod erase;
mod events;
mod forget;
mod help;
mod interrupt;
mod kek;
mod key_servers;
mod list;
mod man;
mod open;
mod output;
mod passphrase;
mod provider;
mod provider_set;
mod recovery;
mod rekey;
mod release;
mod report;
mod session;
mod status;
mod study;
mod terminal;
mod usage;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::control::Failure;
use session::{Globals, Session};

/// Encrypts the disks of a virtualization host below whatever uses them.
#[derive(Debug, Parser)]
#[command(name = "blkseal", version, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = help::SHORT, after_long_help = help::top())]
#[command(long_about = help::ABOUT)]
struct Arguments {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(subcommand)]
    Provider(provider::Provider),
    #[command(subcommand)]
    Kek(kek::Kek),
    Create(create::Create),
    Open(open::Open),
    Close(close::Close),
    List(list::List),
    Status(status::Status),
    Events(events::Events),
    #[command(subcommand)]
    Recovery(recovery::Recovery),
    Rekey(rekey::Rekey),
    Adopt(adopt::Adopt),
    Release(release::Release),
    Forget(forget::Forget),
    Erase(erase::Erase),
    #[command(subcommand)]
    Study(study::Study),
    Daemon(daemon::Daemon),
    #[command(hide = true)]
    Worker(daemon::Worker),
    #[command(hide = true)]
    Header(daemon::Header),
    Completions(completions::Completions),
    Man(man::Man),
}

/// Runs the command that `arguments` ask for, the program's name being the first of them.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = command().try_get_matches_from(&arguments);
    let parsed = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(parsed) => parsed,
        Err(error) => return usage::answer(&error, &arguments),
    };
    let json = parsed.globals.json;
    if !matches!(parsed.verb, Verb::Daemon(_) | Verb::Worker(_) | Verb::Header(_)) {
        report::start_warnings(json, parsed.globals.verbose);
    }
    match parsed.verb.run(Session::new(parsed.globals)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report::failure(&failure, json),
    }
}

impl Verb {
    fn run(self, session: Session) -> Result<(), Failure> {
        match self {
            Self::Provider(verb) => verb.run(session),
            Self::Kek(verb) => verb.run(session),
            Self::Create(verb) => verb.run(session),
            Self::Open(verb) => verb.run(session),
            Self::Close(verb) => verb.run(session),
            Self::List(verb) => verb.run(session),
            Self::Status(verb) => verb.run(session),
            Self::Events(verb) => verb.run(session),
            Self::Recovery(verb) => verb.run(session),
            Self::Rekey(verb) => verb.run(session),
            Self::Adopt(verb) => verb.run(session),
            Self::Release(verb) => verb.run(session),
            Self::Forget(verb) => verb.run(session),
            Self::Erase(verb) => verb.run(session),
            Self::Study(verb) => verb.run(session),
            Self::Daemon(verb) => verb.run(session),
            Self::Worker(verb) => verb.run(),
            Self::Header(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
            Self::Man(verb) => verb.run(session.output),
        }
    }
}

/// Everything that clap knows of the command line.
fn command() -> clap::Command {
    Arguments::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn clap_finds_no_contradiction_in_the_arguments() {
        super::command().debug_assert();
    }
}
