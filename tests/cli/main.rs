//! The command line as its users meet it: transcripts, secrets, the terminal. The daemon is a stand-in that answers
//! from a script and keeps the secrets that it was handed; the real one has tests of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as tests")]

mod adopt;
mod daemon;
mod header;
mod memory;
mod pages;
mod rekey;
mod secrets;
mod terminal;
mod transcripts;
mod trust;
mod worker;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// The `blkseal` under test, to talk to the daemon at `socket`.
fn blkseal(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blkseal"));
    command.env_clear().env("BLKSEAL_SOCKET", socket);
    with_default_signals(&mut command);
    command
}

/// Gives a command the signals that a terminal's shell gives it: whoever started the tests may ignore some, or block them.
fn with_default_signals(command: &mut Command) {
    let reset = || {
        for number in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTSTP] {
            // SAFETY: the default disposition runs no code of this process.
            unsafe { signal(number, SigHandler::SigDfl) }?;
        }
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: signal(2) and the mask's call are async-signal-safe, and change the new process only.
    unsafe { command.pre_exec(reset) };
}
