//! Where the daemon keeps things. Every path can be moved, by a flag or by a variable.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::control::{Failure, FailureKind};
use crate::name::Name;

/// The options of `blkseal daemon`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The socket to listen at, for which every verb has an option; none means daemon.sock in the run directory.
    #[arg(skip)]
    pub socket: Option<PathBuf>,
    /// Where people keep settings: roles.toml
    #[arg(long, env = "BLKSEAL_CONFIG_DIR", value_name = "DIR", default_value = "/etc/blkseal")]
    pub config_dir: PathBuf,
    /// Where the daemon remembers volumes, key providers and events, and native providers keep their keys
    #[arg(long, env = "BLKSEAL_STATE_DIR", value_name = "DIR", default_value = "/var/lib/blkseal")]
    pub state_dir: PathBuf,
    /// Where sockets, and what is known of running workers and of volumes to be opened, are kept until the next boot
    #[arg(long, env = "BLKSEAL_RUN_DIR", value_name = "DIR", default_value = "/run/blkseal")]
    pub run_dir: PathBuf,
    /// Where the stable names of devices are
    #[arg(long, env = "BLKSEAL_DEV_DIR", value_name = "DIR", default_value = "/dev/blkseal")]
    pub dev_dir: PathBuf,
}

impl Options {
    /// The socket to listen at.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("daemon.sock"))
    }

    /// Who may do what.
    pub fn roles_file(&self) -> PathBuf {
        self.config_dir.join("roles.toml")
    }

    /// Where the event log is.
    pub fn events_dir(&self) -> PathBuf {
        self.state_dir.join("events")
    }

    /// Where workers' sockets and records are.
    pub fn workers_dir(&self) -> PathBuf {
        self.run_dir.join("workers")
    }

    /// The socket of the worker that serves `name`.
    pub fn worker_socket(&self, name: &Name) -> PathBuf {
        self.workers_dir().join(format!("{name}.sock"))
    }

    /// What is known of the device that serves `name`.
    pub fn worker_record(&self, name: &Name) -> PathBuf {
        self.workers_dir().join(format!("{name}.json"))
    }

    /// Where the daemon remembers what is to be opened as soon as its KEK is to be had.
    pub fn wishes_dir(&self) -> PathBuf {
        self.run_dir.join("wanted")
    }

    /// What is remembered of `name`, which is to be opened.
    pub fn wish_record(&self, name: &Name) -> PathBuf {
        self.wishes_dir().join(format!("{name}.json"))
    }

    /// Where udev's rule looks for what volume a device is of.
    pub fn udev_dir(&self) -> PathBuf {
        self.run_dir.join("udev")
    }

    /// The stable name of the device that serves `name`.
    pub fn link(&self, name: &Name) -> PathBuf {
        self.dev_dir.join(name.as_str())
    }

    /// The same with absolute paths, and every directory made that is missing: those with state for root alone.
    pub fn prepared(&self) -> Result<Self, Failure> {
        let options = Self {
            socket: self.socket.as_deref().map(absolute).transpose()?,
            config_dir: absolute(&self.config_dir)?,
            state_dir: absolute(&self.state_dir)?,
            run_dir: absolute(&self.run_dir)?,
            dev_dir: absolute(&self.dev_dir)?,
        };
        let directories = [
            (&options.config_dir, 0o700),
            (&options.state_dir, 0o700),
            (&options.run_dir, 0o755),
            (&options.workers_dir(), 0o700),
            (&options.wishes_dir(), 0o700),
            (&options.udev_dir(), 0o700),
            (&options.dev_dir, 0o755),
        ];
        for (directory, mode) in directories {
            make(directory, mode).map_err(|error| config(directory, &error))?;
        }
        Ok(options)
    }
}

fn make(directory: &Path, mode: u32) -> io::Result<()> {
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(mode).create(directory)?;
    }
    if fs::metadata(directory)?.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| config(path, &error))
}

fn config(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::Config, format!("cannot use {}: {error}", path.display()))
        .hint("see 'blkseal daemon --help' for how to move the daemon's directories")
}
