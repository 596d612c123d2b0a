//! Ctrl-C during long work: the first one asks to stop where nothing is left half done, the second ends the process.

use std::io;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// The signal that asked, or 0.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Notes signals that ask to stop, instead of ending the process by them, each once.
pub fn listen() -> io::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART | SaFlags::SA_RESETHAND,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores a number into an atomic variable and does nothing else.
        let before = unsafe { sigaction(signal, &action) }?;
        if matches!(before.handler(), SigHandler::SigIgn) {
            // As under nohup: what was ignored stays so.
            // SAFETY: nothing is run by an action that was there before and runs nothing.
            unsafe { sigaction(signal, &before) }?;
        }
    }
    Ok(())
}

extern "C" fn note(signal: libc::c_int) {
    ASKED.store(signal, Ordering::Relaxed);
}

/// The signal that asked to stop.
pub fn asked() -> Option<Signal> {
    Signal::try_from(ASKED.load(Ordering::Relaxed)).ok()
}

/// Ends the process by `signal`, as its parent expects of one that was asked to stop by it.
pub fn end_by(signal: Signal) -> io::Result<()> {
    raise(signal).map_err(io::Error::from)
}
