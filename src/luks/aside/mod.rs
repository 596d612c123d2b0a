//! libcryptsetup in processes of their own, one for each thing that is done with it.
//!
//! It waits for disks and for flock(2) without a limit, all of a process's calls share one lock, and what it opens is inherited by
//! processes that are started meanwhile. So the daemon has each call made by a process that it can kill: a disk that does not
//! answer costs that one process, which is reaped once the kernel lets go of it, and ends that one command. Secrets go there as
//! descriptors of secret memory, files that are open already as themselves.
//!
//! | file | what it holds |
//! |---|---|
//! | `work` | what is done, and how long it may take |
//! | `process` | the process that does it |
//! | `wire` | one question and one answer over its standard input, with descriptors |

mod process;
mod wire;
mod work;

pub use process::run as run_process;
pub(super) use work::{Done, Keys, Work};

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use ublk_targets::secret::{DEK_LEN, Dek, Secret};

use super::{Access, LuksError, Place};

/// The program that does it; none where this process does.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// Held by who derives a key from a passphrase: one at a time, for each may take half of the memory that there is.
static DERIVATION: Mutex<()> = Mutex::new(());
/// The headers that processes work on which were killed and are not gone yet: their disks do not answer.
static LEFT_BEHIND: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// From now on whatever this process does with libcryptsetup on a volume's disk is done by processes that it starts: by
/// `program`, whose subcommand `header` is to call [`run_process`].
pub fn work_aside(program: &Path) {
    PROGRAM.get_or_init(|| program.to_owned());
}

/// What the process is asked. The open files, if there are any, come beside it, then the DEK, then the passphrase.
#[derive(Serialize, Deserialize)]
struct Question {
    place: Place,
    files: usize,
    has_dek: bool,
    has_passphrase: bool,
    work: Work,
}

/// Does `work`, aside where that was asked for.
pub(super) fn run(place: &Place, access: &Access, work: Work, keys: Keys<'_>) -> Result<Done, LuksError> {
    place.check_paths()?;
    let _turn = work.derives_key().then(|| DERIVATION.lock().unwrap_or_else(PoisonError::into_inner));
    let done = match PROGRAM.get() {
        Some(program) => run_aside(program, place, access, work, keys)?,
        None => work.carry_out(place, access, keys)?,
    };
    Ok(done.reached_by(access))
}

fn run_aside(
    program: &Path,
    place: &Place,
    access: &Access,
    work: Work,
    keys: Keys<'_>,
) -> Result<Done, LuksError> {
    let path = place.header_path();
    if left_behind().contains(path) {
        return Err(LuksError::NoAnswer(path.to_owned()));
    }
    let limit = work.limit();
    let files: Vec<BorrowedFd<'_>> = match access {
        Access::ByPath => Vec::new(),
        Access::Through(files) => files.descriptors().collect(),
    };
    let dek = keys.dek.map(Dek::share).transpose()?;
    let passphrase = keys.passphrase.map(|passphrase| passphrase.share()).transpose()?;
    let secrets = dek.iter().chain(&passphrase).map(AsFd::as_fd);
    let fds: Vec<BorrowedFd<'_>> = files.iter().copied().chain(secrets).collect();
    let question = Question {
        place: place.clone(),
        files: files.len(),
        has_dek: dek.is_some(),
        has_passphrase: passphrase.is_some(),
        work,
    };
    let failed = |e| LuksError::io("have a process work on", path, e);
    let helper = Helper::start(program, path).map_err(failed)?;
    wire::send(helper.socket.as_fd(), &question, &fds).map_err(failed)?;
    let answer = wire::receive::<Result<Done, LuksError>>(helper.socket.as_fd(), limit);
    match answer.map_err(failed)? {
        wire::Received::Message(Ok(Done::Key(uuid, _)), fds) => Ok(Done::Key(uuid, Some(key(place, fds)?))),
        wire::Received::Message(done, _) => done,
        wire::Received::Nothing => {
            helper.give_up();
            Err(LuksError::NoAnswer(path.to_owned()))
        }
        wire::Received::End => Err(LuksError::aside(place, "ended before it was done")),
    }
}

/// The key that came with an answer, in pages of this process alone: those that came are wiped by whoever sent them.
fn key(place: &Place, fds: Vec<OwnedFd>) -> Result<Dek, LuksError> {
    let fd = fds.into_iter().next().ok_or_else(|| LuksError::aside(place, "sent no key"))?;
    let taken = Secret::from_fd(fd, DEK_LEN)?;
    let mut key = Secret::zeroed(DEK_LEN)?;
    key.expose_mut().copy_from_slice(taken.expose());
    Ok(Dek::from_secret(key)?)
}

fn left_behind() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process at work on the header `path`. It ends by itself when this is dropped.
struct Helper {
    child: Option<Child>,
    socket: OwnedFd,
    path: PathBuf,
}

impl Helper {
    fn start(program: &Path, path: &Path) -> io::Result<Self> {
        let (socket, theirs) = wire::pair()?;
        let mut command = Command::new(program);
        command.arg0("blkseal").arg("header").env_clear().current_dir("/");
        for variable in ["RUST_LOG", "JOURNAL_STREAM"] {
            if let Some(value) = std::env::var_os(variable) {
                command.env(variable, value);
            }
        }
        let child = command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).spawn()?;
        Ok(Self { child: Some(child), socket, path: path.to_owned() })
    }

    /// Kills it. Until the kernel has let go of it nobody else is sent to the same disk.
    fn give_up(mut self) {
        let Some(mut child) = self.child.take() else { return };
        log::warn!("{} does not answer: killing process {}", self.path.display(), child.id());
        if let Err(error) = child.kill() {
            log::warn!("cannot kill process {}: {error}", child.id());
        }
        left_behind().insert(self.path.clone());
        let path = self.path.clone();
        reap(child, move || _ = left_behind().remove(&path));
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child, || {});
        }
    }
}

/// Waits for the end of a process, which may take as long as a disk hangs, then goes on with `after`.
fn reap(mut child: Child, after: impl FnOnce() + Send + 'static) {
    let reaper = std::thread::Builder::new().name("reaper".into()).stack_size(64 << 10);
    let spawned = reaper.spawn(move || {
        if let Err(error) = child.wait() {
            log::warn!("cannot reap process {}: {error}", child.id());
        }
        after();
    });
    if let Err(error) = spawned {
        log::warn!("cannot start a thread: {error}");
    }
}
