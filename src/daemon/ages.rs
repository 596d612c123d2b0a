//! KEKs that get too old to be kept. What wipes them sleeps until there is one.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Daemon;
use crate::provider::{ProviderConfig, ProviderName};

/// The KEKs that came into memory and are not looked at yet: whose they are, and when they came.
#[derive(Default)]
pub(super) struct Ages {
    fetched: Mutex<Vec<(ProviderName, Instant)>>,
    woken: Condvar,
}

impl Ages {
    /// A KEK of `provider` has just come into memory.
    pub fn fetched(&self, provider: &ProviderName) {
        self.queue().push((provider.clone(), Instant::now()));
        self.woken.notify_all();
    }

    /// Waits for KEKs, or until `end`, and takes those that came.
    fn wait(&self, end: Option<Instant>) -> Vec<(ProviderName, Instant)> {
        let nothing = |fetched: &mut Vec<_>| fetched.is_empty();
        let mut fetched = match end {
            None => self.woken.wait_while(self.queue(), nothing).unwrap_or_else(PoisonError::into_inner),
            Some(end) => {
                let limit = end.saturating_duration_since(Instant::now());
                let waited = self.woken.wait_timeout_while(self.queue(), limit, nothing);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        std::mem::take(&mut *fetched)
    }

    fn queue(&self) -> MutexGuard<'_, Vec<(ProviderName, Instant)>> {
        // A panic elsewhere cannot have left it half changed.
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    /// Wipes KEKs as they get too old, from now on. Nothing wakes while there is none that can.
    pub(super) fn watch_age_of_keks(self: &Arc<Self>) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            let mut ends = BTreeSet::new();
            loop {
                for (provider, since) in daemon.ages.wait(ends.first().copied()) {
                    ends.extend(daemon.max_age(&provider).and_then(|max_age| since.checked_add(max_age)));
                }
                let (now, before) = (Instant::now(), ends.len());
                ends.retain(|end| *end > now);
                if ends.len() < before {
                    daemon.drop_old_keks();
                }
            }
        });
    }

    fn max_age(&self, provider: &ProviderName) -> Option<Duration> {
        match self.providers().config(provider) {
            Ok(ProviderConfig::Kmip(config)) => config.max_age.map(Duration::from_secs),
            _ => None,
        }
    }

    fn drop_old_keks(&self) {
        self.providers().all().iter().for_each(|provider| provider.drop_old_keks());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn who_waits_sleeps_until_a_key_comes_or_the_oldest_gets_too_old() {
        let (ages, vault): (_, ProviderName) = (Arc::new(Ages::default()), "vault".parse().unwrap());
        let (sender, receiver) = mpsc::channel();
        let waiter = Arc::clone(&ages);
        std::thread::spawn(move || sender.send(waiter.wait(None)));
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err(), "it woke for nothing");
        let before = Instant::now();
        ages.fetched(&vault);
        let came = receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(came.len() == 1 && came[0].0 == vault && came[0].1 >= before, "{came:?}");

        let end = Instant::now() + Duration::from_millis(50);
        assert_eq!(ages.wait(Some(end)), []);
        assert!(Instant::now() >= end);
        ages.fetched(&vault);
        assert_eq!(ages.wait(Some(Instant::now() + Duration::from_secs(3600))).len(), 1);
    }
}
