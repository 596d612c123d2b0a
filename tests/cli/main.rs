//! The command line as its users meet it: transcripts, secrets, the terminal. The daemon is a stand-in that answers
//! from a script and keeps the secrets that it was handed; the real one has tests of its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside the functions that clippy knows as tests")]

mod adopt;
mod daemon;
mod memory;
mod pages;
mod rekey;
mod secrets;
mod terminal;
mod transcripts;
mod trust;

use std::path::Path;
use std::process::Command;

/// The `blkseal` under test, to talk to the daemon at `socket`.
fn blkseal(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blkseal"));
    command.env_clear().env("BLKSEAL_SOCKET", socket);
    command
}
