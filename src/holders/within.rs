//! Asking what may never answer: a file on a server that is gone, a loop device on such a file.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Questions that may be left without an answer. Further ones are not asked.
const MOST: usize = 16;

static UNANSWERED: AtomicUsize = AtomicUsize::new(0);

/// What `ask` answers, on a thread of its own; none where it takes too long. It ends by itself then, or never.
pub(super) fn within<T: Send + 'static>(ask: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
    if UNANSWERED.load(Ordering::Relaxed) >= MOST {
        log::warn!("not looking further for who holds a device: {MOST} earlier looks have not come back");
        return None;
    }
    UNANSWERED.fetch_add(1, Ordering::Relaxed);
    let (sender, answer) = mpsc::channel();
    let asking = thread::Builder::new().spawn(move || {
        let _ = sender.send(ask()); // nobody listens any more after the limit
        UNANSWERED.fetch_sub(1, Ordering::Relaxed);
    });
    match asking {
        Ok(_) => answer.recv_timeout(LIMIT).ok().flatten(),
        Err(_) => {
            UNANSWERED.fetch_sub(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_does_not_come_is_not_waited_for() {
        assert_eq!(within(|| Some(7)), Some(7));
        let (keep, never) = mpsc::channel::<()>();
        assert_eq!(within(move || never.recv().ok()), None);
        drop(keep);
    }
}
