//! `blkseal daemon`, and the processes that only it starts.

use clap::Args;

use super::help;
use super::session::Session;
use crate::control::{Failure, FailureKind};
use crate::{daemon, logging, luks, worker};

/// Run the daemon, which every other command asks
///
/// Holds key encryption keys in locked memory, opens and closes volumes, and keeps a worker process for each open one.
/// It stays in the foreground, logs to standard error, tells a supervisor when it serves (sd_notify), and stops on
/// SIGTERM or SIGINT: open volumes stay open, and the next daemon finds them. Needs root. Every path can be moved, so
/// that a second daemon can run beside the first.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::DAEMON))]
pub struct Daemon {
    #[command(flatten)]
    options: daemon::Options,
}

/// Serve one device; only the daemon starts this
#[derive(Debug, Args)]
pub struct Worker {}

/// Work on one volume's header; only the daemon starts this
#[derive(Debug, Args)]
pub struct Header {}

impl Daemon {
    /// Runs the daemon until it is told to stop.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        daemon::run(&daemon::Options { socket: session.socket, ..self.options })
    }
}

impl Worker {
    /// Runs a worker until its device is stopped.
    pub fn run(self) -> Result<(), Failure> {
        worker::run()
    }
}

impl Header {
    /// Does what comes over standard input.
    pub fn run(self) -> Result<(), Failure> {
        logging::start();
        luks::aside::run_process().map_err(|error| Failure::from_error(FailureKind::System, &error))
    }
}
