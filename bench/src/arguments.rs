//! The arguments of a program.

use std::process::ExitCode;

use clap::Parser;

/// Wrong usage, as sysexits(3) has it.
pub const EX_USAGE: u8 = 64;

/// The arguments; or, where help was asked for or they are wrong, what was said about that as an exit status.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        // Where even this cannot be said, the exit status says it.
        let _ = error.print();
        if error.use_stderr() { EX_USAGE.into() } else { ExitCode::SUCCESS }
    })
}
