//! `blkseal completions`: what a shell needs to complete arguments.

use clap::Args;
use clap_complete::Shell;

use super::help;
use super::output::write_all;
use crate::control::Failure;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::COMPLETIONS))]
pub struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    /// Runs the verb.
    pub fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "blkseal", &mut script);
        write_all(&String::from_utf8_lossy(&script))
    }
}
