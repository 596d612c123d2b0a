//! A question before what cannot be undone.

use clap::Args;

use super::terminal::Terminal;
use crate::control::{Failure, FailureKind};

/// Whether what cannot be undone is meant.
#[derive(Debug, Args)]
pub struct Confirmation {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Confirmation {
    /// Fails unless it is said with --yes, or at the terminal, that what `question` asks is meant.
    pub fn ask(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let unasked = |why: &str| {
            let failure = Failure::new(FailureKind::InvalidArgument, format!("{why}; nothing was done"));
            Err(failure.hint("what this does cannot be undone: --yes says that it is meant"))
        };
        match Terminal::open().and_then(|terminal| terminal.confirm(&format!("{question} [yes/no] "))) {
            Ok(true) => Ok(()),
            Ok(false) => unasked("it was not confirmed"),
            Err(_) => unasked("there is no terminal to ask at"),
        }
    }
}
