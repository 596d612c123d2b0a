//! The KMIP key provider: KEKs made and kept by a cluster of key servers (KMIP 1.1 to 1.4 over TLS).
//!
//! | part | what it holds |
//! |---|---|
//! | [`ttlv`] | bytes to items and back |
//! | [`messages`] | operations to items and back |
//! | `address`, `config`, `certificate` | what a provider is told: where servers are, how they are known |
//! | `tls`, `connection` | bytes to a server and back, each wait with a limit |
//! | `session` | one conversation with one server |
//! | `health`, `cluster` | which server is asked, what happens when it fails |
//! | `cache` | KEKs in locked memory |
//! | `check`, `meet` | what people are shown of servers |
//!
//! The way of a KEK: TLS decrypts it in a buffer of rustls, from there it is read into a buffer that is wiped, from that
//! the decoder borrows it, and it is copied once, into secret pages. The connection is closed after each call, and the
//! daemon's allocator wipes what rustls frees.

mod address;
mod cache;
mod certificate;
mod check;
mod cluster;
mod config;
mod connection;
mod error;
mod health;
mod meet;
pub mod messages;
mod session;
mod tls;
pub mod ttlv;

#[cfg(test)]
mod tests;

pub use address::{AddressError, KMIP_PORT, ProxyAddress, ServerAddress};
pub use certificate::{CertificateInfo, Fingerprint, FingerprintError, date};
pub use check::{ServerReport, ServerStatus, check};
pub use cluster::{KmipEvent, Observer};
pub use config::{DEFAULT_GROUP, KmipConfig, Limits, MAX_SERVERS, Trust};
pub use error::{ConfigError, Fault, ServerError};
pub use meet::meet;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ublk_targets::secret::{Dek, Kek, Secret};
use uuid::Uuid;

use self::cache::KekCache;
use self::cluster::{Cluster, ClusterError};
use self::error::one_line;
use self::messages::{Attributes, Reason};
use self::session::Session;
use super::wrap::{self, WrapError};
use super::{
    Availability, KekChange, KekId, KekInfo, KekState, KeyProvider, ProviderError, ProviderKind, ProviderName,
};

/// A KMIP provider. Making one touches neither files nor the network.
pub struct KmipProvider {
    name: ProviderName,
    cluster: Cluster,
    cache: KekCache,
    known: Mutex<Known>,
}

/// What servers said of KEKs when they were last asked.
#[derive(Default)]
struct Known {
    states: BTreeMap<KekId, KekState>,
    /// The newest active one of this host.
    newest: Option<KekId>,
}

impl KmipProvider {
    /// The provider with these settings. `observer` is told of what happens with its servers and keys.
    pub fn new(name: ProviderName, config: KmipConfig, observer: Observer) -> Self {
        let cache = KekCache::new(config.max_age.map(Duration::from_secs));
        Self { cluster: Cluster::new(name.clone(), config, observer), cache, known: Mutex::default(), name }
    }

    /// Its settings.
    pub fn config(&self) -> &KmipConfig {
        self.cluster.config()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic elsewhere cannot have left it half changed.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, id: &KekId, state: KekState) {
        self.known().states.insert(id.clone(), state);
    }

    fn create(&self, activate: bool) -> Result<KekId, ProviderError> {
        let make = |session: &mut Session<'_>| {
            let id = session.create(&format!("blkseal-{}", Uuid::new_v4()))?;
            if activate && let Err(cause) = session.activate(&id) {
                // Nobody knows of it yet.
                return Err(match session.destroy(&id) {
                    Ok(()) => cause,
                    Err(_) => Fault::Left { id, cause: Box::new(cause) },
                });
            }
            Ok(id)
        };
        let (id, server) = self.call(None, make)?;
        self.cluster.tell(&KmipEvent::KeyMade { id: id.clone(), server });
        self.note(&id, if activate { KekState::Active } else { KekState::PreActive });
        if activate {
            self.known().newest = Some(id.clone());
        }
        Ok(id)
    }

    fn tell_dropped(&self, dropped: Vec<KekId>) {
        dropped.into_iter().for_each(|id| self.cluster.tell(&KmipEvent::KeyDropped(id)));
    }

    fn call<T>(
        &self,
        id: Option<&KekId>,
        work: impl Fn(&mut Session<'_>) -> Result<T, Fault>,
    ) -> Result<(T, ServerAddress), ProviderError> {
        self.cluster.call(work).map_err(|error| self.error(id, error))
    }

    fn error(&self, id: Option<&KekId>, error: ClusterError) -> ProviderError {
        let provider = self.name.clone();
        match (error, id) {
            (ClusterError::Ours(Fault::Memory(error)), _) => error.into(),
            (ClusterError::Ours(Fault::Unfit(error)), _) => error.into(),
            (ClusterError::Ours(Fault::Config(source)), _) => ProviderError::Kmip { provider, source },
            (ClusterError::Ours(fault), _) => {
                ProviderError::Unreachable { provider, reason: fault.to_string() }
            }
            (ClusterError::Refused(source), Some(id)) => self.refusal(id, source),
            (ClusterError::Refused(source), None) => ProviderError::Refused { provider, source },
            (ClusterError::NoServer(failures), _) => {
                let lines: Vec<String> = failures.iter().map(ServerError::line).collect();
                ProviderError::Unreachable { provider, reason: lines.join("; ") }
            }
        }
    }

    /// What it means for the KEK `id` that a server refuses.
    fn refusal(&self, id: &KekId, source: ServerError) -> ProviderError {
        let (provider, id) = (self.name.clone(), id.clone());
        match source {
            ServerError { fault: Fault::Unfit(error), .. } => error.into(),
            ServerError { fault: Fault::State(state), server } => {
                self.note(&id, state);
                match state.is_destroyed() {
                    true => ProviderError::KekGone { provider, id, server },
                    false => ProviderError::KekUnusable { provider, id, state },
                }
            }
            ServerError { fault, server }
                if matches!(fault.refusal(), Some(Reason::NotFound | Reason::Destroyed)) =>
            {
                ProviderError::KekGone { provider, id, server }
            }
            source => ProviderError::Refused { provider, source },
        }
    }

    /// The KEK `id` from the first server that gives one which `proof` takes, what that made of it, and the server.
    fn fetch<T>(
        &self,
        id: &KekId,
        proof: impl Fn(&Kek) -> Result<T, WrapError>,
    ) -> Result<(Kek, T, ServerAddress), ProviderError> {
        let fetch = |session: &mut Session<'_>| {
            let state = session.attributes(id)?.state;
            if !state.unwraps() {
                // One server may know of a change later than the others.
                return Err(Fault::State(state));
            }
            let kek = session.key(id)?;
            let proven = proof(&kek)?;
            Ok((state, kek, proven))
        };
        let ((state, kek, proven), server) = self.call(Some(id), fetch)?;
        self.note(id, state);
        if state.is_out_of_use() {
            self.cluster.tell(&KmipEvent::KeyOutOfUse { id: id.clone(), server: server.clone(), state });
        }
        Ok((kek, proven, server))
    }

    /// That another server, where one answers, gives the same KEK: what only one of them wraps is lost with it.
    fn compare(&self, id: &KekId, kek: &Kek, server: &ServerAddress) -> Result<(), ProviderError> {
        match self.cluster.second_opinion(server, |session| session.key(id)) {
            Some((other, second)) if !is_same(kek, &other) => Err(ProviderError::KeksDiffer {
                provider: self.name.clone(),
                id: id.clone(),
                servers: [server.clone(), second],
            }),
            _ => Ok(()),
        }
    }

    /// Keeps a KEK from now on, in the place of one that was.
    fn keep(&self, id: &KekId, kek: &Kek, server: ServerAddress) -> Result<(), ProviderError> {
        self.forget(id);
        self.cache.insert(id, kek)?;
        self.cluster.tell(&KmipEvent::KeyFetched { id: id.clone(), server });
        Ok(())
    }

    fn forget(&self, id: &KekId) {
        if self.cache.remove(id) {
            self.cluster.tell(&KmipEvent::KeyDropped(id.clone()));
        }
    }
}

impl KeyProvider for KmipProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> ProviderKind {
        ProviderKind::Kmip
    }

    /// Ready until every server has failed, and again once one has answered.
    fn availability(&self) -> Availability {
        if self.cluster.is_down() { Availability::Unavailable } else { Availability::Ready }
    }

    fn create_kek(&self) -> Result<KekId, ProviderError> {
        self.create(true)
    }

    fn create_inactive_kek(&self) -> Result<KekId, ProviderError> {
        self.create(false)
    }

    fn change_kek(&self, id: &KekId, change: KekChange) -> Result<KekState, ProviderError> {
        // Asked first, for not every server refuses what the standard forbids, and a call that failed after it was
        // carried out is made again.
        let work = |session: &mut Session<'_>| {
            let state = session.attributes(id)?.state;
            let next = state.after(change);
            if next.is_some_and(|next| next != state) {
                match change {
                    KekChange::Activate => session.activate(id)?,
                    KekChange::Revoke(why) => session.revoke(id, why)?,
                    KekChange::Destroy => session.destroy(id)?,
                }
            }
            Ok((state, next))
        };
        let ((state, next), server) = self.call(Some(id), work)?;
        let Some(next) = next else {
            return Err(ProviderError::KekChange {
                provider: self.name.clone(),
                id: id.clone(),
                state,
                change,
            });
        };
        if next != state {
            self.cluster.tell(&KmipEvent::KeyChanged { id: id.clone(), server, state: next });
        }
        self.note(id, next);
        if next.is_destroyed() {
            self.forget(id);
        }
        // Another one may be the newest active one by now; where no server answers, this is seen the next time.
        let _ = self.list_keks();
        Ok(next)
    }

    fn kek(&self, id: &KekId) -> Result<KekInfo, ProviderError> {
        let (found, _) = self.call(Some(id), |session| session.attributes(id))?;
        self.note(id, found.state);
        Ok(info(id.clone(), &found))
    }

    fn known_state(&self, id: &KekId) -> Option<KekState> {
        self.known().states.get(id).copied()
    }

    fn fetch_kek(&self, id: &KekId) -> Result<Kek, ProviderError> {
        self.drop_old_keks();
        if let Some(kek) = self.cache.get(id)? {
            return Ok(kek);
        }
        let (kek, (), server) = self.fetch(id, |_| Ok(()))?;
        self.compare(id, &kek, &server)?;
        self.keep(id, &kek, server)?;
        Ok(kek)
    }

    fn unwrap_dek(&self, id: &KekId, wrapped: &[u8]) -> Result<Dek, ProviderError> {
        self.drop_old_keks();
        let fetch = || {
            let (kek, dek, server) = self.fetch(id, |kek| wrap::unwrap(kek, wrapped))?;
            self.keep(id, &kek, server)?;
            Ok(dek)
        };
        let Some(kek) = self.cache.get(id)? else { return fetch() };
        match wrap::unwrap(&kek, wrapped) {
            // It stays until a server gives one that fits: it may be `wrapped` that is damaged, and no server there to
            // give the KEK again for other volumes.
            Err(error @ WrapError::OtherKek) => fetch().map_err(|_: ProviderError| error.into()),
            unwrapped => Ok(unwrapped?),
        }
    }

    fn holds_kek(&self, id: &KekId) -> bool {
        self.cache.has(id)
    }

    fn drop_old_keks(&self) {
        self.tell_dropped(self.cache.drop_old());
    }

    fn wrapping_kek(&self) -> Option<KekId> {
        self.known().newest.clone()
    }

    fn list_keks(&self) -> Result<Vec<KekInfo>, ProviderError> {
        let list = |session: &mut Session<'_>| {
            let ids = session.locate()?;
            ids.into_iter()
                .map(|id| session.attributes(&id).map(|found| (id, found)))
                .collect::<Result<Vec<_>, _>>()
        };
        let (found, _) = self.call(None, list)?;
        let mut keks: Vec<KekInfo> = found.into_iter().map(|(id, found)| info(id, &found)).collect();
        // Ids that count upwards tell the order of those that were made in the same second.
        keks.sort_by(|a, b| {
            let key = |kek: &KekInfo| (kek.created, kek.id.as_str().len());
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
        });
        let newest = keks.iter().rev().find(|kek| kek.state == KekState::Active);
        let mut known = self.known();
        known.newest = newest.map(|kek| kek.id.clone());
        known.states.extend(keks.iter().map(|kek| (kek.id.clone(), kek.state)));
        drop(known);
        Ok(keks)
    }

    fn unlock(&self, _: &Secret) -> Result<(), ProviderError> {
        Err(ProviderError::NothingToUnlock(self.name.clone()))
    }

    fn lock(&self) {
        self.tell_dropped(self.cache.clear());
    }
}

fn info(id: KekId, found: &Attributes) -> KekInfo {
    let since = Duration::from_secs(found.created.unwrap_or_default().try_into().unwrap_or_default());
    let created = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
    KekInfo { id, state: found.state, created }
}

/// In the same time whichever bytes differ, for it is a server that gave them.
fn is_same(one: &Kek, other: &Kek) -> bool {
    one.expose().iter().zip(other.expose()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
