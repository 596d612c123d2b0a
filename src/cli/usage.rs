//! What clap has to say, in the form of a failure.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use super::report;
use crate::control::{Failure, FailureKind};

/// Whether JSON was asked for, as far as can be told of arguments that were not understood.
pub fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// Prints the help or version that was asked for, or reports what is wrong with the arguments.
pub fn answer(error: &clap::Error, json: bool) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print(); // a reader that closed its end has read enough
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            let _ = error.print();
            ExitCode::from(FailureKind::InvalidArgument.exit_code())
        }
        _ => report::failure(&failure(error), json),
    }
}

/// The first paragraph of clap's text is what is wrong, a `tip:` or the usage what to do.
fn failure(error: &clap::Error) -> Failure {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let mut paragraphs = text.split("\n\n").map(one_line);
    let what = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "no command was given".to_owned(),
        _ => paragraphs.next().unwrap_or_default(),
    };
    let rest: Vec<String> = paragraphs.collect();
    let tip = rest.iter().find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let usage = rest.iter().find_map(|paragraph| paragraph.strip_prefix("Usage: "));
    let hint = match (tip, usage) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("the usage is: {usage}; try '--help'"),
        (None, None) => "try '--help'".to_owned(),
    };
    Failure::new(FailureKind::InvalidArgument, what).hint(hint)
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}
