//! `blkseal open`: a volume's device.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::PossibleValuesParser;
use ublk_targets::cipher::CpuPath;

use super::output::short_size;
use super::session::{Daemon, Session};
use super::values::VolumeArgument;
use super::{help, values};
use crate::control::{self, DeviceOptions, Failure, FailureKind, Name, Volume, VolumeState};

/// How often who waits asks whether the volume is open.
const POLL: Duration = Duration::from_millis(300);

/// Open a volume: its plaintext appears as /dev/blkseal/NAME
///
/// The daemon unwraps the volume's key and starts a worker for it. A volume made on another host, or forgotten by
/// this one, is opened by the path of its backing. Where no key server answers, or the key provider is locked, the
/// volume stays locked (exit code 6) and opens by itself once its key is to be had; 'blkseal close' calls that off.
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
    /// Where its key is not to be had now, wait until it is, or for this long: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = values::duration)]
    wait: Option<Option<u64>>,
    /// Where its key is not to be had now, fail with exit code 75 and do not open it later
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
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
    /// What is on it is this host's, not a guest's: look for partitions and file systems, with links by UUID and label
    #[arg(long)]
    host: bool,
    /// Pass discards to the backing; they show which sectors are unused
    #[arg(long)]
    allow_discards: bool,
    /// Hardware queues: 1 to 64 [default: by the number of CPUs]
    #[arg(long, value_name = "N", value_parser = values::number::<u16>(1..=64))]
    queues: Option<u16>,
    /// Threads that share a queue's requests, for many at once from one CPU: 1 to 16; 1 where the kernel (before 6.16)
    /// has no such thing [default: 1]
    #[arg(long, value_name = "N", value_parser = values::number::<u16>(1..=16))]
    threads: Option<u16>,
    /// Requests in flight a queue: 1 to 1024 [default: 64]
    #[arg(long, value_name = "N", value_parser = values::number::<u16>(1..=1024))]
    depth: Option<u16>,
    /// Longest request: a power of two from 4K to 4M; buffers, queues times depth times this, take 1 GiB at most
    /// [default: 256K]
    #[arg(long, value_name = "BYTES", value_parser = values::max_io)]
    max_io: Option<u32>,
    /// Look for requests for so long before a queue's thread sleeps: shorter latencies for a busier processor, 0 to
    /// 1000000 [default: 0]
    #[arg(long, value_name = "MICROSECONDS", value_parser = values::number::<u32>(0..=1_000_000))]
    spin: Option<u32>,
}

impl DeviceArguments {
    /// The options for the daemon.
    pub fn options(self, cpu_path: Option<String>) -> DeviceOptions {
        DeviceOptions {
            queues: self.queues,
            threads: self.threads,
            depth: self.depth,
            max_io_bytes: self.max_io,
            spin_us: self.spin,
            allow_discards: self.allow_discards,
            read_only: self.read_only,
            host: self.host,
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
            keep_trying: Some(!self.no_wait),
        };
        let mut daemon = session.daemon()?;
        let opened = match (daemon.call_slow("opening the volume", &call, &[]), self.wait) {
            (Err(why), Some(limit)) if why.kind == FailureKind::Waiting => {
                wait(&mut daemon, &call.volume, limit.map(Duration::from_secs), why)
            }
            (opened, _) => opened,
        };
        let volume = opened.map_err(|failure| self.volume.explain(failure))?;
        session.output.warn_of(&volume);
        session.output.answer(&volume, text)
    }
}

/// Waits until `volume` is open, for `limit` at most; after that fails with `why` it is not.
fn wait(daemon: &mut Daemon, volume: &str, limit: Option<Duration>, why: Failure) -> Result<Volume, Failure> {
    let _spinner = daemon.spinner(&why.message);
    let start = Instant::now();
    loop {
        let now = daemon.call(&control::Status { volume: volume.to_owned() })?;
        if now.state == VolumeState::Live {
            return Ok(now);
        }
        if !now.wanted {
            let message =
                format!("volume {} did not open: it was closed, or failed with its key at hand", now.name);
            let hint = format!("'blkseal events --volume {}' tells", now.name);
            return Err(Failure::new(FailureKind::Locked, message).hint(hint));
        }
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            return Err(why);
        }
        std::thread::sleep(POLL);
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
