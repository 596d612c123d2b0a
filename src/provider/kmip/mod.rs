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
pub use cluster::{KmipEvent, Observer, log_observer};
pub use config::{DEFAULT_GROUP, KmipConfig, Limits, MAX_SERVERS, Trust};
pub use error::{ConfigError, Fault, ServerError};
pub use meet::meet;
pub use messages::Revocation;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ublk_targets::secret::{Kek, Secret};
use uuid::Uuid;

use self::cache::KekCache;
use self::cluster::{Cluster, ClusterError};
use self::error::one_line;
use self::messages::{Attributes, Reason, State};
use self::session::Session;
use super::{Availability, KekId, KekInfo, KekState, KeyProvider, ProviderError, ProviderKind, ProviderName};

/// A KMIP provider. Making one touches neither files nor the network.
pub struct KmipProvider {
    name: ProviderName,
    cluster: Cluster,
    cache: KekCache,
    newest: Mutex<Option<KekId>>,
}

impl KmipProvider {
    /// The provider with these settings. `observer` is told of what happens with its servers and keys.
    pub fn new(name: ProviderName, config: KmipConfig, observer: Observer) -> Self {
        let cache = KekCache::new(config.max_age.map(Duration::from_secs));
        Self { cluster: Cluster::new(name.clone(), config, observer), cache, newest: Mutex::default(), name }
    }

    /// Its settings.
    pub fn config(&self) -> &KmipConfig {
        self.cluster.config()
    }

    /// Takes a KEK out of use: it wraps no more, and still unwraps.
    pub fn revoke_kek(&self, id: &KekId, why: Revocation) -> Result<(), ProviderError> {
        self.call(Some(id), |session| session.revoke(id, why)).map(|_| ())
    }

    /// Ends a KEK, at the servers and here. What it wrapped is lost, wherever there is no other way to it.
    pub fn destroy_kek(&self, id: &KekId) -> Result<(), ProviderError> {
        self.call(Some(id), |session| session.destroy(id))?;
        self.cache.remove(id);
        Ok(())
    }

    /// The newest active KEK, as it was when servers were last asked for all.
    fn newest(&self) -> MutexGuard<'_, Option<KekId>> {
        // A panic elsewhere cannot have left the option half set.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_dropped(&self, count: usize) {
        if count > 0 {
            self.cluster.tell(&KmipEvent::KeysDropped(count));
        }
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
            (ClusterError::Ours(Fault::Config(source)), _) => ProviderError::Kmip { provider, source },
            (ClusterError::Ours(fault), _) => {
                ProviderError::Unreachable { provider, reason: fault.to_string() }
            }
            (ClusterError::Refused(error, Reason::NotFound | Reason::Destroyed), Some(id)) => {
                ProviderError::KekGone { provider, id: id.clone(), server: error.server }
            }
            (ClusterError::Refused(source, _), _) => ProviderError::Refused { provider, source },
            (ClusterError::NoServer(failures), _) => {
                let lines: Vec<String> = failures.iter().map(ServerError::line).collect();
                ProviderError::Unreachable { provider, reason: lines.join("; ") }
            }
        }
    }

    /// That a KEK in this state may unwrap, said where it should be replaced.
    fn check_unwraps(&self, id: &KekId, state: State, server: &ServerAddress) -> Result<(), ProviderError> {
        let out_of_use = |state| KmipEvent::KeyOutOfUse { id: id.clone(), server: server.clone(), state };
        let provider = self.name.clone();
        match state {
            State::Active => {}
            State::Deactivated => self.cluster.tell(&out_of_use("deactivated")),
            State::Compromised => self.cluster.tell(&out_of_use("compromised")),
            State::PreActive => return Err(ProviderError::KekInactive { provider, id: id.clone() }),
            State::Destroyed | State::DestroyedCompromised => {
                return Err(ProviderError::KekGone { provider, id: id.clone(), server: server.clone() });
            }
        }
        Ok(())
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
        let make = |session: &mut Session<'_>| {
            let id = session.create(&format!("blkseal-{}", Uuid::new_v4()))?;
            session.activate(&id).inspect_err(|_| {
                // Nobody knows of it yet. Where this fails too, a key that was never active stays behind.
                let _ = session.destroy(&id);
            })?;
            Ok(id)
        };
        let (id, _) = self.call(None, make)?;
        *self.newest() = Some(id.clone());
        Ok(id)
    }

    fn fetch_kek(&self, id: &KekId) -> Result<Kek, ProviderError> {
        self.drop_old_keks();
        if let Some(kek) = self.cache.get(id)? {
            return Ok(kek);
        }
        let fetch = |session: &mut Session<'_>| {
            let state = session.attributes(id)?.state;
            let gives = !matches!(state, State::PreActive | State::Destroyed | State::DestroyedCompromised);
            Ok((state, if gives { Some(session.key(id)?) } else { None }))
        };
        let ((state, kek), server) = self.call(Some(id), fetch)?;
        self.check_unwraps(id, state, &server)?;
        let gone =
            || ProviderError::KekGone { provider: self.name.clone(), id: id.clone(), server: server.clone() };
        let kek = kek.ok_or_else(gone)?;
        self.cache.insert(id, &kek)?;
        self.cluster.tell(&KmipEvent::KeyFetched { id: id.clone(), server: server.clone() });
        Ok(kek)
    }

    fn holds_kek(&self, id: &KekId) -> bool {
        self.cache.has(id)
    }

    fn drop_old_keks(&self) {
        self.tell_dropped(self.cache.drop_old());
    }

    fn wrapping_kek(&self) -> Option<KekId> {
        self.newest().clone()
    }

    fn list_keks(&self) -> Result<Vec<KekInfo>, ProviderError> {
        let list = |session: &mut Session<'_>| {
            let ids = session.locate()?;
            ids.into_iter()
                .map(|id| session.attributes(&id).map(|found| (id, found)))
                .collect::<Result<Vec<_>, _>>()
        };
        let (found, _) = self.call(None, list)?;
        let mut keks: Vec<KekInfo> = found.into_iter().filter_map(|(id, found)| info(id, &found)).collect();
        // Ids that count upwards tell the order of those that were made in the same second.
        keks.sort_by(|a, b| {
            let key = |kek: &KekInfo| (kek.created, kek.id.as_str().len());
            key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
        });
        let newest = keks.iter().rev().find(|kek| kek.state == KekState::Active);
        *self.newest() = newest.map(|kek| kek.id.clone());
        Ok(keks)
    }

    fn unlock(&self, _: &Secret) -> Result<(), ProviderError> {
        Err(ProviderError::NothingToUnlock(self.name.clone()))
    }

    fn lock(&self) {
        self.tell_dropped(self.cache.clear());
    }
}

/// What may be told of a KEK; nothing of one that is not in use yet or any more.
fn info(id: KekId, found: &Attributes) -> Option<KekInfo> {
    let state = match found.state {
        State::Active => KekState::Active,
        State::Deactivated => KekState::Deactivated,
        State::Compromised => KekState::Compromised,
        State::PreActive | State::Destroyed | State::DestroyedCompromised => return None,
    };
    let since = Duration::from_secs(found.created.unwrap_or_default().try_into().unwrap_or_default());
    let created = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
    Some(KekInfo { id, state, created })
}
