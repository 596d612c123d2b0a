//! What clap has to say, in the form of a failure.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use super::report;
use crate::control::{Failure, FailureKind};

/// Prints the help or version that was asked for, or reports what is wrong with the `arguments`.
pub fn answer(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print(); // a reader that closed its end has read enough
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => {
            let _ = error.print();
            ExitCode::from(FailureKind::InvalidArgument.exit_code())
        }
        _ => report::failure(&failure(error, arguments), json),
    }
}

/// The first paragraph of clap's text is what is wrong, a `tip:` or the usage what to do.
fn failure(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let text = error.to_string();
    let mut paragraphs = text.strip_prefix("error: ").unwrap_or(&text).split("\n\n").map(one_line);
    let command = command_of(arguments);
    let what = match (error.kind(), paragraphs.next()) {
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _)
        | (_, None) => {
            format!("'{command}' needs a command after it")
        }
        (_, Some(what)) => what,
    };
    let advice: Vec<String> = paragraphs.collect();
    let advice = |prefix| advice.iter().find_map(|paragraph| paragraph.strip_prefix(prefix));
    let hint = match (advice("tip: "), advice("Usage: ")) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("the usage is: {usage}; '{command} --help' tells more"),
        (None, None) => format!("see '{command} --help'"),
    };
    Failure::new(FailureKind::InvalidArgument, what).hint(hint)
}

/// The command that `arguments` name, as far as they do: `blkseal recovery add`.
fn command_of(arguments: &[OsString]) -> String {
    let root = super::command();
    let mut command = &root;
    let mut name = "blkseal".to_owned();
    for argument in arguments.iter().skip(1) {
        if let Some(sub) = command.find_subcommand(argument) {
            command = sub;
            name = format!("{name} {}", sub.get_name());
        }
    }
    name
}

fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}
