//! The process that works on one header: it is asked once over its standard input, answers and ends. It ends, too, when nobody
//! waits for the answer any more.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::PollFlags;
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::unistd::setsid;
use ublk_targets::secret::{Dek, Secret, Shared, process};

use super::super::{Access, Files, LuksError};
use super::wire::{self, Received};
use super::{Done, Keys, Question};

/// How long the question may take to come.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of the longest passphrase or key file.
const MAX_SECRET: usize = 8192;

/// Answers the question that comes over standard input.
pub fn run() -> io::Result<()> {
    confine()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let Received::Message(question, fds) = wire::receive::<Question>(socket.as_fd(), QUESTION_LIMIT)? else {
        return Err(io::Error::other("no question came over standard input: only the daemon starts this"));
    };
    let is_answered = end_with_asker(&socket)?;
    let (done, key) = match answer(&question, fds) {
        Ok((done, key)) => (Ok(done), key),
        Err(error) => (Err(error), None),
    };
    is_answered.store(true, Ordering::Relaxed);
    let keys: Vec<_> = key.iter().map(AsFd::as_fd).collect();
    wire::send(socket.as_fd(), &done, &keys)?;
    // A key is there to be taken over until the asker hangs up.
    wire::wait(socket.as_fd(), PollFlags::empty(), None)?;
    Ok(())
}

/// No descriptors of others, no dumps, no swap, no terminal; and the first to go where memory runs out.
fn confine() -> io::Result<()> {
    // SAFETY: closes descriptors of which nothing in this process knows yet; no memory is involved.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    fs::write("/proc/self/oom_score_adj", "1000")?;
    process::forbid_dumps()?;
    process::lock_all_memory()?;
    prctl::set_no_new_privs()?;
    prctl::set_name(c"blkseal")?;
    SigSet::all().thread_unblock()?;
    // Fails only for the leader of a session, which is what is wanted.
    let _ = setsid();
    Ok(())
}

/// Ends this process, whatever it is at, when the asker hangs up before it is answered: a header that is cut off at any moment is
/// the old one or the new (`docs/FORMAT.md`).
fn end_with_asker(socket: &OwnedFd) -> io::Result<Arc<AtomicBool>> {
    let is_answered = Arc::new(AtomicBool::new(false));
    let (socket, flag) = (socket.try_clone()?, Arc::clone(&is_answered));
    std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let _ = wire::wait(socket.as_fd(), PollFlags::empty(), None);
        if !flag.load(Ordering::Relaxed) {
            // SAFETY: ends the process at once; nothing of it is used afterwards.
            unsafe { libc::_exit(1) };
        }
    })?;
    Ok(is_answered)
}

fn answer(question: &Question, fds: Vec<OwnedFd>) -> Result<(Done, Option<Shared>), LuksError> {
    let missing = || LuksError::aside(&question.place, "was not sent all that it needs");
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(missing);
    let access = match question.files {
        0 => Access::ByPath,
        1 => Access::Through(Arc::new(Files::new(File::from(next()?), None))),
        _ => Access::Through(Arc::new(Files::new(File::from(next()?), Some(File::from(next()?))))),
    };
    let dek = question.has_dek.then(|| Ok::<_, LuksError>(Dek::from_fd(next()?)?)).transpose()?;
    let passphrase = question
        .has_passphrase
        .then(|| Ok::<_, LuksError>(Secret::from_fd_at_most(next()?, MAX_SECRET)?))
        .transpose()?;
    let keys = Keys { dek: dek.as_ref(), passphrase: passphrase.as_ref() };
    match question.work.carry_out(&question.place, &access, keys)? {
        Done::Key(uuid, Some(key)) => Ok((Done::Key(uuid, None), Some(key.share()?))),
        done => Ok((done, None)),
    }
}
