//! Failures and warnings on standard error.

use std::io::Write;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::json;

use super::output::printable;
use crate::control::{Failure, FailureKind};

const FAILED: Style = AnsiColor::Red.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default();

/// A failure in JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    error: Error<'a>,
}

/// What is in it.
#[derive(Debug, Serialize)]
pub struct Error<'a> {
    kind: FailureKind,
    message: &'a str,
    hint: Option<&'a str>,
    exit_code: u8,
}

impl<'a> Error<'a> {
    /// What `failure` says.
    pub fn of(failure: &'a Failure) -> Self {
        let Failure { kind, message, hint, .. } = failure;
        Self { kind: *kind, message, hint: hint.as_deref(), exit_code: kind.exit_code() }
    }
}

/// Tells `failure` in one line, and in a second one what to do; returns its exit code.
pub fn failure(failure: &Failure, json: bool) -> ExitCode {
    let Failure { kind, message, hint, .. } = failure;
    let text = if json {
        serde_json::to_string(&Report { error: Error::of(failure) }).unwrap_or_default()
            + "
"
    } else {
        let mut text = format!("{FAILED}blkseal:{FAILED:#} {}\n", printable(message));
        if let Some(hint) = hint {
            text += &format!("{HINT}hint:{HINT:#} {}\n", printable(hint));
        }
        text
    };
    // Standard error is the last place to say anything: where it is gone, the exit code has to do.
    let _ = anstream::stderr().write_all(text.as_bytes());
    ExitCode::from(kind.exit_code())
}

/// Sends what the command logs to standard error: warnings, and with `verbose` what it does.
pub fn start_warnings(json: bool, verbose: u8) {
    let level = match verbose {
        0 => log::LevelFilter::Warn,
        1 => log::LevelFilter::Info,
        _ => log::LevelFilter::Trace,
    };
    let line = move |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let text = record.args().to_string();
        let text = printable(&text);
        match (json, record.level()) {
            (true, log::Level::Warn | log::Level::Error) => writeln!(out, "{}", json!({ "warning": text })),
            (true, _) => writeln!(out, "{}", json!({ "note": text })),
            (false, log::Level::Warn | log::Level::Error) => writeln!(out, "blkseal: warning: {text}"),
            (false, _) => writeln!(out, "blkseal: {text}"),
        }
    };
    env_logger::Builder::new().filter_level(level).format(line).init();
}
