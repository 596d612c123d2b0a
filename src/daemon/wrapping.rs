//! Who is wrapping DEKs by KEKs of which provider, so that no KEK is destroyed and no provider removed under them. Each
//! provider counts for itself: one whose servers hang delays nobody else's.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Daemon;
use super::providers::provider_name;
use crate::control::{Failure, FailureKind};
use crate::name::Name;
use crate::provider::{KeyProvider, ProviderName};

/// How long a command waits for others that use the same provider.
const LIMIT: Duration = Duration::from_secs(60);

/// What is under way with each provider; those with nothing are not in it.
#[derive(Default)]
pub(super) struct Wrapping {
    uses: Mutex<BTreeMap<ProviderName, Use>>,
    ended: Condvar,
}

#[derive(Default)]
struct Use {
    /// How many commands wrap a DEK.
    wrapping: usize,
    /// Whether none may begin to.
    is_forbidden: bool,
}

/// That a DEK is being wrapped, until dropped.
pub(super) struct Started<'a> {
    wrapping: &'a Wrapping,
    provider: ProviderName,
}

/// That no DEK is wrapped by a KEK of a provider, until dropped.
pub(super) struct Forbidden<'a> {
    wrapping: &'a Wrapping,
    provider: ProviderName,
}

impl Wrapping {
    /// While the result is held no KEK of the provider is destroyed, and it is not removed. To be taken before a KEK is chosen,
    /// and held until the volume is known.
    pub fn start(&self, provider: &ProviderName) -> Result<Started<'_>, Failure> {
        self.start_within(provider, LIMIT)
    }

    fn start_within(&self, provider: &ProviderName, limit: Duration) -> Result<Started<'_>, Failure> {
        let mut uses = self.wait(provider, limit, |used| !used.is_forbidden)?;
        uses.entry(provider.clone()).or_default().wrapping += 1;
        Ok(Started { wrapping: self, provider: provider.clone() })
    }

    /// While the result is held no DEK is wrapped by a KEK of the provider.
    pub fn forbid(&self, provider: &ProviderName) -> Result<Forbidden<'_>, Failure> {
        self.forbid_within(provider, LIMIT)
    }

    fn forbid_within(&self, provider: &ProviderName, limit: Duration) -> Result<Forbidden<'_>, Failure> {
        let mut uses = self.wait(provider, limit, |used| !used.is_forbidden && used.wrapping == 0)?;
        uses.entry(provider.clone()).or_default().is_forbidden = true;
        Ok(Forbidden { wrapping: self, provider: provider.clone() })
    }

    fn wait(
        &self,
        provider: &ProviderName,
        limit: Duration,
        is_free: impl Fn(&Use) -> bool,
    ) -> Result<MutexGuard<'_, BTreeMap<ProviderName, Use>>, Failure> {
        let is_taken = |uses: &mut BTreeMap<ProviderName, Use>| !uses.get(provider).is_none_or(&is_free);
        let (uses, waited) = self
            .ended
            .wait_timeout_while(self.uses(), limit, is_taken)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let message =
                format!("key provider {provider} is used by another command, which does not come to its end");
            let hint = "try again later; `blkseal provider check` tells whether its servers answer";
            return Err(Failure::new(FailureKind::Busy, message).hint(hint));
        }
        Ok(uses)
    }

    fn end(&self, provider: &ProviderName, change: impl FnOnce(&mut Use)) {
        let mut uses = self.uses();
        if let Some(used) = uses.get_mut(provider) {
            change(used);
            if used.wrapping == 0 && !used.is_forbidden {
                uses.remove(provider);
            }
        }
        self.ended.notify_all();
    }

    fn uses(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Use>> {
        // A panic elsewhere cannot have left it half changed.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        self.wrapping.end(&self.provider, |used| used.wrapping -= 1);
    }
}

impl Drop for Forbidden<'_> {
    fn drop(&mut self) {
        self.wrapping.end(&self.provider, |used| used.is_forbidden = false);
    }
}

impl Daemon {
    /// The provider of that name, or the default one, to wrap a DEK by one of its KEKs.
    pub(super) fn wrapping_provider(
        &self,
        name: Option<&Name>,
    ) -> Result<(Started<'_>, Arc<dyn KeyProvider>), Failure> {
        let name = match name {
            Some(name) => provider_name(name)?,
            None => self.providers().default_provider()?.name().clone(),
        };
        let started = self.wrapping.start(&name)?;
        // Only now, for it could have been removed before.
        Ok((started, self.providers().get(&name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn providers_do_not_wait_for_each_other() {
        let wrapping = Arc::new(Wrapping::default());
        let (hangs, well): (ProviderName, ProviderName) = ("hangs".parse().unwrap(), "well".parse().unwrap());
        let (first, second) = (wrapping.start(&hangs).unwrap(), wrapping.start(&hangs).unwrap());
        let (sender, receiver) = mpsc::channel();
        let (destroyer, name) = (Arc::clone(&wrapping), hangs.clone());
        let waiter = std::thread::spawn(move || {
            drop(destroyer.forbid(&name).unwrap());
            sender.send(()).unwrap();
        });
        drop(wrapping.forbid(&well).unwrap());
        drop(wrapping.start(&well).unwrap());
        // Who waits to forbid keeps nobody from wrapping.
        drop(wrapping.start(&hangs).unwrap());
        drop(first);
        assert!(receiver.try_recv().is_err(), "one still wraps");
        drop(second);
        receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        waiter.join().unwrap();
        assert!(wrapping.uses().is_empty());
    }

    #[test]
    fn what_never_ends_is_not_waited_for_for_ever() {
        let (wrapping, name) = (Wrapping::default(), "office".parse().unwrap());
        let forbidden = wrapping.forbid(&name).unwrap();
        let failure = wrapping.start_within(&name, Duration::ZERO).err().unwrap();
        assert_eq!(failure.kind, FailureKind::Busy);
        assert!(failure.message.contains("office") && failure.hint.is_some(), "{failure}");
        drop(forbidden);
        let started = wrapping.start(&name).unwrap();
        assert!(wrapping.forbid_within(&name, Duration::ZERO).is_err());
        drop(started);
        wrapping.forbid_within(&name, Duration::ZERO).unwrap();
    }
}
