//! The methods of `io.blkseal.Worker`; `io.blkseal.Worker.varlink` says the same in Varlink's own language.
//!
//! The daemon calls [`Serve`] once, over the socket pair that is a new worker's standard input. From then on the
//! worker listens on a socket of its own, where any daemon that comes later finds it. To end it, a daemon stops its
//! device, and deletes it when the worker is gone.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ublk_targets::device::Word;
use uuid::Uuid;

use super::interface::interface;
use super::{Counters, Name, Nothing, SecretFd, TargetKind};

interface! {
    /// The calls that a worker answers.
    WorkerCalls: "io.blkseal.Worker", "io.blkseal.Worker.varlink", {
        Serve -> Report,
        GetReport -> Report,
        GetBacking -> Nothing,
    }
}

/// Starts the device. Answered when it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    /// What to serve.
    pub job: Job,
    /// The ublk device to take over from a worker that died.
    pub recover: Option<u32>,
    /// The DEK, where the target encrypts.
    pub dek: Option<SecretFd>,
    /// The place of the backing's descriptor among those that travel with the call. What it stands for is claimed, and served;
    /// no path is opened.
    pub backing: Option<u32>,
}

/// Everything that a worker is told but the DEK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The volume's name.
    pub name: Name,
    /// The volume's UUID; none for a device without encryption.
    pub uuid: Option<Uuid>,
    /// What to do with sectors.
    pub target: TargetKind,
    /// The block device or file, for reports only; none for `null`.
    pub backing: Option<PathBuf>,
    /// The detached header, for reports only: the worker does not open it.
    pub header: Option<PathBuf>,
    /// Where the data begins in the backing.
    pub data_offset: u64,
    /// Bytes that the device's user sees.
    pub size: u64,
    /// Bytes of a sector, 512 or 4096.
    pub sector_size: u32,
    /// Hardware queues.
    pub queues: u16,
    /// Threads that are to share a queue's requests; none is 1.
    pub threads: Option<u16>,
    /// Requests in flight a queue.
    pub depth: u16,
    /// Longest request.
    pub max_io_bytes: u32,
    /// Microseconds that a queue's thread looks for requests before it sleeps; none is 0.
    pub spin_us: Option<u32>,
    /// Whether discards reach the backing.
    pub discards: bool,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether its content is the host's own, for the kernel and udev to look into.
    #[serde(default)]
    pub host: bool,
    /// Where udev's rule looks for what volume a device is of; none where the daemon is of a release that knew no such thing.
    pub udev_dir: Option<PathBuf>,
    /// The cipher's implementation; none picks the fastest for this CPU.
    pub cpu_path: Option<String>,
    /// The socket on which the worker is to listen.
    pub socket: PathBuf,
    /// The random word that the device is known by; none in what releases wrote that gave all devices the same one.
    pub word: Option<Word>,
}

impl Job {
    /// What the device is known by.
    pub fn word(&self) -> Word {
        self.word.unwrap_or_else(|| old_word(self.socket.parent().unwrap_or(Path::new(""))))
    }
}

/// What older releases knew all devices by whose workers have their sockets in `directory`.
pub fn old_word(directory: &Path) -> Word {
    Word::of_directory(directory.as_os_str().as_bytes())
}

/// Asks a worker what it serves and has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetReport {}

/// Asks a worker for the descriptor of its backing, which comes beside the answer. For root, and the worker's own user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetBacking {}

/// What a worker serves and has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it was told.
    pub job: Job,
    /// Its process id.
    pub pid: u32,
    /// The number of its ublk device.
    pub device_id: u32,
    /// The device node.
    pub node: PathBuf,
    /// Threads that do share a queue's requests; none where the worker is of a release that knew only one.
    pub threads: Option<u16>,
    /// The cipher's implementation, where it encrypts.
    pub cpu_path: Option<String>,
    /// How its keys are locked, where it has any.
    pub key_memory: Option<String>,
    /// What it has done.
    pub counters: Counters,
}
