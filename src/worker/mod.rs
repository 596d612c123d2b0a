//! A worker: one process, one volume, one ublk device.
//!
//! The daemon starts it with a socket pair as its standard input and calls `io.blkseal.Worker.Serve` there; the DEK
//! comes with that call. From then on the worker needs nobody: it outlives its daemon, and a later daemon finds it by its
//! socket. It ends when its device is stopped.
//!
//! | file | what it holds |
//! |---|---|
//! | `announce` | what udev is told of a device |
//! | `target` | from the job to the target: backing, cipher |
//! | `confine` | what the process gives up: dumps, swap, mounts, capabilities |

mod announce;
mod confine;
mod target;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::{Value, json};
use ublk_targets::device::{self, Layout, Running, Start};
use ublk_targets::target::Target;

use crate::control::worker::{Job, Report, Serve, WorkerCalls};
use crate::control::{self, Answer, Counters, Failure, FailureKind, Peer, Secrets, Service};
use crate::logging;
use crate::seccomp;
use announce::Announcement;
use target::{Keys, Prepared};

/// How long the daemon may take to hand over the job.
const JOB_LIMIT: Duration = Duration::from_secs(30);

/// Runs a worker on the job that comes over standard input, until its device is stopped.
pub fn run() -> Result<(), Failure> {
    confine::close_inherited().map_err(|error| system("close what was inherited", &error))?;
    logging::start();
    confine::from_the_start().map_err(|error| system("confine the worker", &error))?;
    let daemon = standard_input().map_err(|error| {
        system("take standard input as a socket", &error).hint("only the daemon starts workers")
    })?;
    let (call, secrets, answer) = Answer::to_first_call(daemon, JOB_LIMIT)?;
    let answer = Pending(Arc::new(Mutex::new(Some(answer))));
    let outcome = match call {
        WorkerCalls::Serve(call) => serve(call, secrets, answer.clone()),
        WorkerCalls::GetReport(_) | WorkerCalls::GetBacking(_) => {
            Err(Failure::new(FailureKind::InvalidArgument, "there is no job yet"))
        }
    };
    match outcome {
        // Whoever asked for the device has been told, and tells.
        Err(failure) if answer.give(Err(failure.clone())) == Given::Now => Ok(()),
        outcome => outcome,
    }
}

/// The answer to the daemon's call: a report once the device serves, or the first failure.
#[derive(Clone)]
struct Pending(Arc<Mutex<Option<Answer<WorkerCalls>>>>);

/// What became of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Given {
    Now,
    Before,
    /// The daemon is gone.
    ToNobody,
}

impl Pending {
    /// Gives the answer, unless it was given before.
    fn give(&self, result: Result<Report, Failure>) -> Given {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match answer.map(|answer| answer.give(&result)) {
            None => Given::Before,
            Some(true) => Given::Now,
            Some(false) => Given::ToNobody,
        }
    }
}

fn serve(call: Serve, mut secrets: Secrets, answer: Pending) -> Result<(), Failure> {
    let Serve { job, recover, dek, backing } = call;
    let dek = dek.map(|index| secrets.take(index)).transpose()?;
    let backing = backing.map(|index| secrets.take_fd(index)).transpose()?.map(File::from);
    // The same open file: what keeps others from the backing is kept as long as either is there.
    let claim = backing.as_ref().map(File::try_clone).transpose();
    let claim = claim.map_err(|error| system("keep the backing open", &error))?;
    let prepared = target::prepare(&job, dek, backing)?;
    let listener = control::bind(&job.socket, 0o600)
        .map_err(|error| system(&format!("listen at {}", job.socket.display()), &error))?;
    let announcement = Announcement::prepare(&job).map(Arc::new);
    confine::for_service().map_err(|error| system("confine the worker", &error))?;
    let start = recover.map_or(Start::Add(job.word()), |id| Start::Recover(id, job.word()));
    let contacts = Contacts { listener, answer, announcement };
    let own = Own { start, job, claim };
    match prepared {
        Prepared::Null(target) => serve_target(own, None, target, contacts),
        Prepared::Plain(target) => serve_target(own, None, target, contacts),
        Prepared::Crypt(target, keys) => serve_target(own, Some(keys), target, contacts),
    }
}

/// Whom a worker has to do with while its device starts.
struct Contacts {
    listener: UnixListener,
    answer: Pending,
    announcement: Option<Arc<Announcement>>,
}

/// What a worker was given.
struct Own {
    start: Start,
    job: Job,
    claim: Option<File>,
}

fn serve_target<T: Target>(
    Own { start, job, claim }: Own,
    keys: Option<Keys>,
    target: T,
    contacts: Contacts,
) -> Result<(), Failure> {
    let Contacts { listener, answer, announcement } = contacts;
    let layout = Layout {
        queues: job.queues,
        threads: job.threads.unwrap_or(1),
        depth: job.depth,
        max_io: job.max_io_bytes,
        spin_us: job.spin_us.unwrap_or_default(),
        partitions: job.host,
    };
    // One that is taken over, udev knows.
    let new = announcement.clone().filter(|_| matches!(start, Start::Add(_)));
    let added = move |id| {
        if let Some(announcement) = new {
            announcement.added(id);
        }
    };
    let ready = move |running: Running| {
        if let Some(announcement) = announcement {
            announcement.started(running.id());
        }
        let worker = Arc::new(Worker { job, claim, keys, running });
        let is_known = answer.give(Ok(worker.report())) != Given::ToNobody;
        if !is_known && matches!(start, Start::Add(_)) {
            log::error!("volume {}: its daemon ended meanwhile; so does its worker", worker.job.name);
            return false;
        }
        // The device serves already: to end now would help nobody.
        if let Err(error) = confine::for_serving() {
            log::error!("volume {}: {}", worker.job.name, system("leave the host's files", &error));
        }
        if let Err(error) = seccomp::allow_serving() {
            log::error!("volume {}: {}", worker.job.name, Failure::from_error(FailureKind::System, &error));
        }
        std::thread::spawn(move || control::serve(&worker, &listener));
        true
    };
    Ok(device::serve(start, &layout, target, added, ready)?)
}

/// What answers on the worker's own socket.
struct Worker {
    job: Job,
    claim: Option<File>,
    keys: Option<Keys>,
    running: Running,
}

impl Worker {
    fn report(&self) -> Report {
        let stats = self.running.stats();
        Report {
            job: self.job.clone(),
            pid: std::process::id(),
            device_id: self.running.id(),
            node: self.running.node(),
            threads: Some(self.running.threads()),
            cpu_path: self.keys.as_ref().map(|keys| keys.cpu_path.to_string()),
            key_memory: self.keys.as_ref().map(|keys| keys.memory.to_owned()),
            counters: Counters {
                reads: stats.reads,
                read_bytes: stats.read_bytes,
                writes: stats.writes,
                written_bytes: stats.write_bytes,
                flushes: stats.flushes,
                discards: stats.discards,
                write_zeroes: stats.write_zeroes,
                errors: stats.errors,
            },
        }
    }
}

impl Service for Worker {
    type Calls = WorkerCalls;

    fn answer(self: &Arc<Self>, peer: &Peer, call: WorkerCalls, _: Secrets) -> Result<Value, Failure> {
        match call {
            WorkerCalls::GetReport(_) => Ok(json!(self.report())),
            WorkerCalls::GetBacking(_) if peer.uid != 0 && peer.uid != geteuid().as_raw() => {
                let message = "only the daemon gets a worker's backing";
                Err(Failure::new(FailureKind::NotPermitted, message))
            }
            WorkerCalls::GetBacking(_) => Ok(json!({})),
            WorkerCalls::Serve(_) => Err(Failure::new(FailureKind::Busy, "this worker has its job already")),
        }
    }

    fn beside(&self, call: &WorkerCalls) -> Vec<OwnedFd> {
        match (call, &self.claim) {
            (WorkerCalls::GetBacking(_), Some(claim)) => {
                claim.try_clone().map(OwnedFd::from).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

fn standard_input() -> io::Result<UnixStream> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    stream.peer_addr()?; // fails where it is no connected socket
    Ok(stream)
}

fn system(action: &str, error: &io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("cannot {action}: {error}"))
}
