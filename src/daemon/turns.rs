//! One command at a time on a volume; commands on different volumes run side by side.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::name::Name;

#[derive(Default)]
struct Shared {
    busy: Mutex<HashSet<Name>>,
    freed: Condvar,
}

/// Which volumes have a command under way.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Shared>);

/// The right to change one volume, until dropped.
pub(super) struct Turn {
    turns: Turns,
    name: Name,
}

impl Turns {
    /// Waits until no other command is under way on `name`.
    pub fn take(&self, name: &Name) -> Turn {
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy =
            self.0.freed.wait_while(busy, |busy| busy.contains(name)).unwrap_or_else(PoisonError::into_inner);
        busy.insert(name.clone());
        Turn { turns: self.clone(), name: name.clone() }
    }

    /// Waits until no command is under way, for `limit` at most. Says whether that is so.
    pub fn wait_for_none(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.0.freed.wait_timeout_while(busy, left, |busy| !busy.is_empty());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_empty()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.turns.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_volume_has_one_turn_at_a_time_and_others_do_not_wait() {
        let (turns, one, two) = (Turns::default(), "one".parse().unwrap(), "two".parse().unwrap());
        let first = turns.take(&one);
        let _other = turns.take(&two);
        let (sender, receiver) = mpsc::channel();
        let (again, name) = (turns.clone(), one.clone());
        let waiter = std::thread::spawn(move || {
            let _turn = again.take(&name);
            sender.send(()).unwrap();
        });
        assert!(!turns.wait_for_none(Duration::from_millis(20)));
        assert!(receiver.try_recv().is_err());
        drop(first);
        receiver.recv().unwrap();
        waiter.join().unwrap();
    }
}
