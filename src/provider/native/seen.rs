//! What a key file was last seen to hold, for who must not wait: the file system may hang that it is on.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::provider::KekInfo;

/// How long a look is waited for: what is not seen by then is what was seen before.
const LIMIT: Duration = Duration::from_millis(500);
/// How long a look may take before the file counts as one that cannot be read.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// What was seen, and whether somebody is looking.
#[derive(Default)]
pub(super) struct Seen {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    last: Option<Sight>,
    /// Since when somebody looks.
    looking: Option<Instant>,
}

/// A look at a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Nothing is known yet.
    Unknown,
    /// It could not be read, or takes too long.
    Unreadable,
    /// It holds these KEKs, oldest first.
    Keks(Vec<KekInfo>),
}

impl Seen {
    /// What `look` sees, where it comes back soon; otherwise what was seen before. There is one look at a time, in a thread
    /// that is left behind where it hangs.
    pub fn look(self: &Arc<Self>, path: PathBuf, look: fn(PathBuf) -> Option<Vec<KekInfo>>) -> Sight {
        let mut state = self.state();
        let since = *state.looking.get_or_insert_with(|| {
            let seen = Arc::clone(self);
            thread::spawn(move || seen.note(look(path)));
            Instant::now()
        });
        let left = LIMIT.saturating_sub(since.elapsed());
        // Another look may have begun meanwhile, and this one ended all the same.
        let looks = |state: &mut State| state.looking == Some(since);
        state = self.ended.wait_timeout_while(state, left, looks).unwrap_or_else(PoisonError::into_inner).0;
        match state.looking {
            Some(since) if since.elapsed() > GIVEN_UP => Sight::Unreadable,
            _ => state.last.clone().unwrap_or(Sight::Unknown),
        }
    }

    fn note(&self, keks: Option<Vec<KekInfo>>) {
        let mut state = self.state();
        state.last = Some(keks.map_or(Sight::Unreadable, Sight::Keks));
        state.looking = None;
        self.ended.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_look_that_hangs_is_not_waited_for() {
        static HANGS: AtomicBool = AtomicBool::new(false);
        fn look(_: PathBuf) -> Option<Vec<KekInfo>> {
            while HANGS.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            Some(Vec::new())
        }
        let seen = Arc::new(Seen::default());
        let until = |expected: Sight| {
            let end = Instant::now() + Duration::from_secs(60);
            while seen.look(PathBuf::new(), look) != expected {
                assert!(Instant::now() < end, "{expected:?} does not come");
            }
        };
        until(Sight::Keks(Vec::new()));
        HANGS.store(true, Ordering::SeqCst);
        // That these come back at all is what is tried here.
        assert_eq!(seen.look(PathBuf::new(), look), Sight::Keks(Vec::new()), "what was seen before");
        until(Sight::Unreadable);
        HANGS.store(false, Ordering::SeqCst);
        until(Sight::Keks(Vec::new()));
    }
}
