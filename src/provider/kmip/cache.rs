//! KEKs in locked memory, so that volumes open while every server is down.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ublk_targets::secret::{KEK_LEN, Kek, Secret, SecretError};

use crate::provider::KekId;

struct Kept {
    kek: Kek,
    since: Instant,
}

/// The KEKs that were fetched, each for as long as its age is allowed.
pub(super) struct KekCache {
    max_age: Option<Duration>,
    keks: Mutex<BTreeMap<KekId, Kept>>,
}

impl KekCache {
    pub fn new(max_age: Option<Duration>) -> Self {
        Self { max_age, keks: Mutex::default() }
    }

    /// A copy of the KEK, in secret pages of its own, where it is kept and not too old.
    pub fn get(&self, id: &KekId) -> Result<Option<Kek>, SecretError> {
        self.keks().get(id).filter(|kept| self.is_good(kept)).map(|kept| copy(&kept.kek)).transpose()
    }

    /// Keeps a copy of the KEK.
    pub fn insert(&self, id: &KekId, kek: &Kek) -> Result<(), SecretError> {
        let kept = Kept { kek: copy(kek)?, since: Instant::now() };
        self.keks().insert(id.clone(), kept);
        Ok(())
    }

    /// Whether the KEK is kept and not too old.
    pub fn has(&self, id: &KekId) -> bool {
        self.keks().get(id).is_some_and(|kept| self.is_good(kept))
    }

    /// Wipes one KEK and returns whether it was kept.
    pub fn remove(&self, id: &KekId) -> bool {
        self.keks().remove(id).is_some()
    }

    /// Wipes the KEKs whose time is over and returns which they were.
    pub fn drop_old(&self) -> Vec<KekId> {
        let mut keks = self.keks();
        let old: Vec<KekId> =
            keks.iter().filter(|(_, kept)| !self.is_good(kept)).map(|(id, _)| id.clone()).collect();
        keks.retain(|id, _| !old.contains(id));
        old
    }

    /// Wipes every KEK and returns which they were.
    pub fn clear(&self) -> Vec<KekId> {
        std::mem::take(&mut *self.keks()).into_keys().collect()
    }

    fn is_good(&self, kept: &Kept) -> bool {
        self.max_age.is_none_or(|max_age| kept.since.elapsed() < max_age)
    }

    fn keks(&self) -> MutexGuard<'_, BTreeMap<KekId, Kept>> {
        // A panic elsewhere cannot have left the map half changed.
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn copy(kek: &Kek) -> Result<Kek, SecretError> {
    let mut secret = Secret::zeroed(KEK_LEN)?;
    secret.expose_mut().copy_from_slice(kek.expose());
    Kek::from_secret(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> KekId {
        text.parse().unwrap()
    }

    #[test]
    fn a_kek_stays_until_it_is_dropped() {
        let (cache, kek) = (KekCache::new(None), Kek::generate().unwrap());
        cache.insert(&id("1"), &kek).unwrap();
        cache.insert(&id("2"), &Kek::generate().unwrap()).unwrap();
        assert!(cache.get(&id("1")).unwrap().unwrap().expose() == kek.expose());
        assert!(cache.get(&id("3")).unwrap().is_none());
        assert!(cache.remove(&id("2")));
        assert!(!cache.remove(&id("2")));
        assert!(cache.get(&id("2")).unwrap().is_none());
        assert_eq!(cache.clear(), [id("1")]);
        assert!(!cache.has(&id("1")));
    }

    #[test]
    fn a_kek_that_is_too_old_is_gone() {
        let (cache, kek) = (KekCache::new(Some(Duration::ZERO)), Kek::generate().unwrap());
        cache.insert(&id("1"), &kek).unwrap();
        assert!(!cache.has(&id("1")));
        assert!(cache.get(&id("1")).unwrap().is_none());
        assert_eq!(cache.drop_old(), [id("1")], "whoever asked for it in vain left it to be told");
        assert!(cache.drop_old().is_empty());
    }
}
