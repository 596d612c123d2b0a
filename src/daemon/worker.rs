//! Workers as the daemon sees them: started with a job, or found by their sockets.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ublk_targets::secret::Shared;

use super::process::Process;
use crate::control::worker::{GetBacking, GetReport, Job, Report, Serve};
use crate::control::{self, Client, Failure, FailureKind, Peer, SecretFd};
use crate::failures::of_volume;
use crate::volume::Unverified;

/// How long a new worker may take until its device serves: longer than ublk's control commands may.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a worker may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a worker is started with.
pub(super) struct Start<'h> {
    /// What it is told.
    pub job: Job,
    /// The device to take over, or none to make one.
    pub recover: Option<u32>,
    /// The DEK, which is given once it is found to be right.
    pub dek: Option<Unverified<'h>>,
    /// The claimed backing.
    pub backing: Option<Arc<File>>,
}

/// Starts a worker, and waits until its device serves. The pages by which the worker gets the DEK are wiped when this
/// returns: it has taken the key over by then, or is gone.
pub(super) fn start(start: Start<'_>) -> Result<(Report, Process), Failure> {
    let Start { job, recover, dek, backing } = start;
    let name = job.name.clone();
    let (process, channel) = spawn().map_err(|error| {
        Failure::new(FailureKind::System, format!("cannot start a worker for volume {name}: {error}"))
    })?;
    // Checked while the new process gets ready.
    let dek = dek.map(Unverified::verify).transpose().map_err(of_volume(&name));
    let dek = dek.and_then(|dek| Ok(dek.map(|dek| dek.share()).transpose()?));
    let report = match &dek {
        Ok(dek) => serve(channel, job, recover, dek.as_ref(), backing.as_deref()),
        Err(failure) => Err(failure.clone()),
    };
    match report {
        Ok(report) => Ok((report, process)),
        Err(failure) => {
            process.kill();
            process.wait(Some(ANSWER_LIMIT));
            Err(match failure.kind {
                FailureKind::NoDaemon => Failure::new(
                    FailureKind::System,
                    format!("the worker of volume {name} did not start: {failure}"),
                )
                .hint("the daemon's log may tell why"),
                _ => failure,
            })
        }
    }
}

fn serve(
    channel: UnixStream,
    job: Job,
    recover: Option<u32>,
    dek: Option<&Shared>,
    backing: Option<&File>,
) -> Result<Report, Failure> {
    let call = Serve {
        job,
        recover,
        dek: dek.map(|_| SecretFd(0)),
        backing: backing.map(|_| u32::from(dek.is_some())),
    };
    let fds: Vec<_> = dek.map(AsFd::as_fd).into_iter().chain(backing.map(AsFd::as_fd)).collect();
    Client::over_with_limit(channel, START_LIMIT)
        .map_err(|error| Failure::from_error(FailureKind::System, &error))?
        .call_with(&call, &fds)
}

/// What the worker that listens at `socket` says of itself, and who it is.
pub(super) fn ask(socket: &Path) -> Result<(Report, Peer), Failure> {
    let stream = control::connect(socket, ANSWER_LIMIT).map_err(|error| gone(socket, &error))?;
    let peer = Peer::of(&stream).map_err(|error| gone(socket, &error))?;
    let mut client = Client::over_with_limit(stream, ANSWER_LIMIT).map_err(|error| gone(socket, &error))?;
    Ok((client.call(&GetReport {}, &[])?, peer))
}

/// The backing of the worker that listens at `socket`: the open file that is claimed.
pub(super) fn ask_for_backing(socket: &Path) -> Result<Option<File>, Failure> {
    let stream = control::connect(socket, ANSWER_LIMIT).map_err(|error| gone(socket, &error))?;
    let mut client = Client::over_with_limit(stream, ANSWER_LIMIT).map_err(|error| gone(socket, &error))?;
    let (_, fds) = client.call_for_fds(&GetBacking {}, &[])?;
    Ok(fds.into_iter().next().map(File::from))
}

fn gone(socket: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::NoDaemon, format!("no worker answers at {}: {error}", socket.display()))
}

/// A worker that waits for its job at the other end of the socket.
fn spawn() -> io::Result<(Process, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe"); // this very program, also where its file was replaced
    // An @ in front keeps it alive at shutdown until the file systems above it are gone
    // (systemd, "Storage Daemons for the Root File System").
    command.arg0("@blkseal").arg("worker").env_clear().current_dir("/");
    for variable in ["RUST_LOG", "JOURNAL_STREAM"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    // Where no descriptor for it is to be had, the child ends by itself: its socket is closed.
    Ok((Process::of_child(command.spawn()?)?, ours))
}
