//! What every verb has: the global options and the daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgAction, Args};
use indicatif::ProgressBar;
use ublk_targets::secret::Secret;

use super::output::Output;
use crate::control::{Client, DEFAULT_SOCKET, Failure, Method};

/// The options that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The daemon's socket [env: BLKSEAL_SOCKET] [default: /run/blkseal/daemon.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON, failures too
    ///
    /// Each answer is one JSON value on one line of standard output: the reply of the daemon's Varlink method, or {}
    /// where there is nothing to say. A failure is {"error": {"kind", "message", "hint", "exit_code"}} on standard
    /// error, a warning {"warning"}. Fields may be added in later versions; none changes its meaning. Sizes are in
    /// bytes.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on standard error; twice for more still
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// One run of a verb.
#[derive(Debug)]
pub struct Session {
    /// The daemon's socket, where the user named one.
    pub socket: Option<PathBuf>,
    /// Where answers go.
    pub output: Output,
}

impl Session {
    /// A session that has not connected yet.
    pub fn new(globals: Globals) -> Self {
        // Not by clap, which would count a variable among the arguments that were given.
        let from_environment = || std::env::var_os("BLKSEAL_SOCKET").filter(|path| !path.is_empty());
        let socket = globals.socket.or_else(|| from_environment().map(PathBuf::from));
        Self { socket, output: Output::new(globals.json) }
    }

    /// Connects to the daemon.
    pub fn daemon(&self) -> Result<Daemon, Failure> {
        let socket = self.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET));
        let client = Client::connect(socket)?;
        log::info!("connected to the daemon at {}", socket.display());
        Ok(Daemon { client, spins: !self.output.is_json() })
    }
}

/// The daemon, as a verb sees it.
#[derive(Debug)]
pub struct Daemon {
    client: Client,
    spins: bool,
}

impl Daemon {
    /// Makes a call that is answered at once.
    pub fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, Failure> {
        self.call_with(method, &[])
    }

    /// Makes a call that may take seconds; says what is `doing` on a terminal meanwhile.
    pub fn call_slow<M: Method>(
        &mut self,
        doing: &str,
        method: &M,
        secrets: &[&Secret],
    ) -> Result<M::Reply, Failure> {
        let spinner = self.spinner(doing);
        let answer = self.call_with(method, secrets);
        spinner.finish_and_clear();
        answer
    }

    /// Says what is `doing`, on standard error, and only where that is a terminal.
    pub fn spinner(&self, doing: &str) -> ProgressBar {
        let spinner = if self.spins { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        spinner.set_message(doing.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(120));
        spinner
    }

    fn call_with<M: Method>(&mut self, method: &M, secrets: &[&Secret]) -> Result<M::Reply, Failure> {
        log::info!("calling {}", M::NAME);
        self.client.call(method, secrets)
    }
}
