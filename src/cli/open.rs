//! `blkseal open`: a volume's device.

use std::path::PathBuf;

use clap::Args;
use clap::builder::PossibleValuesParser;
use ublk_targets::cipher::CpuPath;

use super::output::short_size;
use super::session::Session;
use super::values::VolumeArgument;
use super::{help, values};
use crate::control::{self, DeviceOptions, Failure, Name, Volume};

/// Open a volume: its plaintext appears as /dev/blkseal/NAME
///
/// The daemon unwraps the volume's key and starts a worker for it. A volume made on another host, or forgotten by
/// this one, is opened by the path of its backing.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::OPEN))]
pub struct Open {
    /// Its name, its UUID, or the path of its backing (with a '/': ./disk.img)
    volume: VolumeArgument,
    /// What to call a volume that this host does not know yet
    #[arg(long)]
    name: Option<Name>,
    /// The file with the header of a volume that this host does not know yet
    #[arg(long, value_name = "FILE", value_parser = values::path)]
    header: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArguments,
    /// How to compute AES, for studies [default: the fastest of this CPU]
    #[arg(long, value_name = "PATH", value_parser = PossibleValuesParser::new(CpuPath::ALL.map(CpuPath::name)))]
    cpu_path: Option<String>,
}

/// How a device is laid out.
#[derive(Debug, Args)]
pub struct DeviceArguments {
    /// Refuse writes
    #[arg(long)]
    read_only: bool,
    /// Pass discards to the backing; they show which sectors are unused
    #[arg(long)]
    allow_discards: bool,
    /// Hardware queues, each with a thread of its own: 1 to 64 [default: by the number of CPUs]
    #[arg(long, value_name = "N", value_parser = values::number::<u16>(1..=64))]
    queues: Option<u16>,
    /// Requests in flight a queue: 1 to 1024 [default: 64]
    #[arg(long, value_name = "N", value_parser = values::number::<u16>(1..=1024))]
    depth: Option<u16>,
    /// Longest request: a power of two from 4K to 4M [default: 256K]
    #[arg(long, value_name = "BYTES", value_parser = values::max_io)]
    max_io: Option<u32>,
}

impl DeviceArguments {
    /// The options for the daemon.
    pub fn options(self, cpu_path: Option<String>) -> DeviceOptions {
        DeviceOptions {
            queues: self.queues,
            depth: self.depth,
            max_io_bytes: self.max_io,
            allow_discards: self.allow_discards,
            read_only: self.read_only,
            cpu_path,
        }
    }
}

impl Open {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let call = control::Open {
            volume: self.volume.text(),
            name: self.name,
            header: self.header,
            options: self.device.options(self.cpu_path),
        };
        let opened = session.daemon()?.call_slow("opening the volume", &call, &[]);
        let volume = opened.map_err(|failure| self.volume.explain(failure))?;
        session.output.warn_of(&volume);
        session.output.answer(&volume, text)
    }
}

/// Where the device is.
pub fn text(volume: &Volume) -> String {
    let size = volume.size.map(|bytes| format!(", {}", short_size(bytes))).unwrap_or_default();
    match &volume.device {
        Some(device) => {
            let (link, node) = (device.link.display(), device.node.display());
            format!("{} is open: {link} -> {node}{size}\n", volume.name)
        }
        None => format!("{} has no device yet\n", volume.name),
    }
}
