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
//! | `own` | this host's certificate, key and authorities, and whether they can be used |
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
mod own;
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
pub use own::{HostCertificate, host_certificate};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ublk_targets::secret::{Dek, Kek, Secret};
use uuid::Uuid;

use self::cache::KekCache;
use self::cluster::{Cluster, ClusterError};
use self::error::one_line;
use self::messages::{Attributes, NAME_PREFIX};
use self::session::Session;
use super::wrap::{self, WrapError};
use super::{
    Availability, KekChange, KekId, KekInfo, KekState, KeyProvider, ProviderError, ProviderKind,
    ProviderName, newest_active,
};

/// The pause before the other servers are asked again for a KEK that one of them had not.
const REPLICATION_PAUSE: Duration = Duration::from_millis(250);
/// How far ahead a date may be before it is told of.
const CLOCKS_MAY_DIFFER: Duration = Duration::from_secs(300);

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
    /// The one that was made last, and when by the clock of this host.
    made: Option<(KekId, SystemTime)>,
    /// Those that every server of the cluster gave alike.
    agreed: BTreeSet<KekId>,
    /// Those that were told of because their dates are to come.
    early: BTreeSet<KekId>,
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
            // The time in it is by this host's clock, whatever those of the servers say.
            let id = session.create(&format!("{NAME_PREFIX}{}", Uuid::now_v7()))?;
            match self.finish(session, &id, activate) {
                Ok(state) => Ok((id, state)),
                // Nobody knows of it yet.
                Err(cause) => Err(match session.discard(&id) {
                    Ok(()) => cause,
                    Err(_) => Fault::Left { id, cause: Box::new(cause) },
                }),
            }
        };
        let ((id, state), server) = self.call(None, make)?;
        self.cluster.tell(&KmipEvent::KeyMade { id: id.clone(), server });
        let mut known = self.known();
        known.states.insert(id.clone(), state);
        known.made = Some((id.clone(), SystemTime::now()));
        if state == KekState::Active {
            known.newest = Some(id.clone());
        }
        Ok(id)
    }

    /// Looks whether the KEK that was just made is what was asked for and can be told from others, and has it active if that
    /// is wanted. Some servers make keys that are.
    fn finish(&self, session: &mut Session<'_>, id: &KekId, activate: bool) -> Result<KekState, Fault> {
        let made = session.attributes(id)?;
        if !made.is_of(&self.config().group) {
            return Err(Fault::MadeOther(
                "told neither in the object group nor by the name that it was given",
            ));
        }
        if !made.is_aes_256 {
            return Err(Fault::MadeOther("not an AES key of 256 bits"));
        }
        if !activate || made.state == KekState::Active {
            return Ok(made.state);
        }
        match session.activate(id) {
            Ok(()) => Ok(KekState::Active),
            Err(cause) => match session.attributes(id) {
                Ok(now) if now.state == KekState::Active => Ok(now.state),
                _ => Err(cause),
            },
        }
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
            (ClusterError::Ours(Fault::Foreign(found)), Some(id)) => {
                ProviderError::KekForeign { provider, id: id.clone(), found }
            }
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
            ServerError { fault, server } if fault.is_gone() => {
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

    /// That each other server, where it answers, gives the same KEK: what only one of them has is lost with it. One that says
    /// that it has it not may get it soon.
    fn compare(&self, id: &KekId, kek: &Kek, server: &ServerAddress) -> Result<(), ProviderError> {
        let until = Instant::now() + self.config().limits.replication();
        loop {
            let (provider, id) = (self.name.clone(), id.clone());
            let Some(lacking) = self.first_without(&id, kek, server)? else { return Ok(()) };
            if self.config().allow_unreplicated {
                self.cluster.tell(&KmipEvent::KeyNotReplicated { id, lacking });
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(ProviderError::NotReplicated { provider, id, server: server.clone(), lacking });
            }
            thread::sleep(REPLICATION_PAUSE);
        }
    }

    /// The first other server than `server` that says that it has not the KEK.
    fn first_without(
        &self,
        id: &KekId,
        kek: &Kek,
        server: &ServerAddress,
    ) -> Result<Option<ServerAddress>, ProviderError> {
        let provider = self.name.clone();
        let others = self.cluster.others(server, |session| session.key(id));
        let others = others.map_err(|source| ProviderError::Kmip { provider: provider.clone(), source })?;
        let mut agreed = 1;
        let mut without = None;
        for (other, answer) in others {
            match answer {
                Ok(theirs) if is_same(kek, &theirs) => agreed += 1,
                Ok(_) => {
                    let servers = [server.clone(), other];
                    return Err(ProviderError::KeksDiffer { provider, id: id.clone(), servers });
                }
                Err(fault) if fault.is_gone() => without = without.or(Some(other)),
                Err(_) => {}
            }
        }
        if agreed == self.config().servers.len() {
            self.known().agreed.insert(id.clone());
        }
        Ok(without)
    }

    /// Keeps a KEK from now on, in the place of one that was.
    fn keep(&self, id: &KekId, kek: &Kek, server: ServerAddress) -> Result<(), ProviderError> {
        self.forget(id);
        self.cache.insert(id, kek)?;
        self.cluster.tell(&KmipEvent::KeyFetched { id: id.clone(), server });
        Ok(())
    }

    fn forget(&self, id: &KekId) {
        self.known().agreed.remove(id);
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
            let found = session.attributes(id)?;
            if !found.is_of(&self.config().group) {
                return Err(Fault::Foreign(whereabouts(&found)));
            }
            let state = found.state;
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
        let kept = self.cache.get(id)?;
        let is_agreed = self.known().agreed.contains(id);
        let fetched = match kept {
            Some(kept) if is_agreed => return Ok(kept),
            // It was fetched to unwrap, or while a server was away: now the others are to be asked, if they are there.
            Some(kept) => match self.fetch(id, |_| Ok(())) {
                Err(ProviderError::Unreachable { .. }) => return Ok(kept),
                fetched => fetched,
            },
            None => self.fetch(id, |_| Ok(())),
        };
        let (kek, (), server) = fetched?;
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
        let known = self.known();
        let made = known.made.clone();
        // First of all those that matter, whether or not the server finds them: it may find some of many only.
        let mut first: Vec<KekId> = made.iter().map(|(id, _)| id.clone()).collect();
        first.extend(known.newest.clone().filter(|id| !first.contains(id)));
        drop(known);
        let list = |session: &mut Session<'_>| {
            let located = session.locate()?;
            let mut ids = first.clone();
            ids.extend(located.into_iter().filter(|id| !first.contains(id)));
            session.survey(&ids)?.checked(made.as_ref().map(|(id, _)| id))
        };
        let (survey, server) = self.call(None, list)?;
        if survey.unread > 0 {
            self.cluster.tell(&KmipEvent::KeysUnread { server, count: survey.unread });
        }
        let ours = |found: &Attributes| found.is_of(&self.config().group) && found.is_aes_256;
        let found = survey.found.into_iter().filter(|(_, found)| ours(found));
        let mut keks: Vec<KekInfo> = found.map(|(id, found)| info(id, &found)).collect();
        if let Some((id, time)) = made {
            keks.iter_mut().filter(|kek| kek.id == id).for_each(|kek| kek.created = time);
        }
        let early = put_in_order(&mut keks, SystemTime::now());
        let mut known = self.known();
        known.newest = newest_active(&keks).cloned();
        known.states.extend(keks.iter().map(|kek| (kek.id.clone(), kek.state)));
        let news: Vec<_> = early.into_iter().filter(|(id, _)| known.early.insert(id.clone())).collect();
        drop(known);
        for (id, created) in news {
            self.cluster.tell(&KmipEvent::KeyFromTheFuture { id, created });
        }
        Ok(keks)
    }

    fn unlock(&self, _: &Secret) -> Result<(), ProviderError> {
        Err(ProviderError::NothingToUnlock(self.name.clone()))
    }

    fn lock(&self) {
        self.known().agreed.clear();
        self.tell_dropped(self.cache.clear());
    }
}

fn info(id: KekId, found: &Attributes) -> KekInfo {
    let by_server = Duration::from_secs(found.created.unwrap_or_default().try_into().unwrap_or_default());
    let since = found.names.iter().find_map(|name| time_in(name)).unwrap_or(by_server);
    let created = SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH);
    KekInfo { id, state: found.state, created }
}

/// When the host that made a KEK gave it its name, since 1970, where the name says.
fn time_in(name: &str) -> Option<Duration> {
    let uuid = Uuid::parse_str(name.strip_prefix(NAME_PREFIX)?).ok()?;
    let (seconds, nanoseconds) = uuid.get_timestamp().filter(|_| uuid.get_version_num() == 7)?.to_unix();
    Some(Duration::new(seconds, nanoseconds))
}

/// Puts KEKs in order, oldest first. A date that has not come yet says nothing of age, so that it does not make a KEK the newest:
/// what has one comes before all others. Returns those active ones whose dates are not just a little ahead.
fn put_in_order(keks: &mut [KekInfo], now: SystemTime) -> Vec<(KekId, SystemTime)> {
    // Ids that count upwards tell the order of those that were made at the same time.
    keks.sort_by(|a, b| {
        let key = |kek: &KekInfo| (kek.created <= now, kek.created, kek.id.as_str().len());
        key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
    });
    let is_early = |kek: &&KekInfo| kek.state == KekState::Active && kek.created > now + CLOCKS_MAY_DIFFER;
    keks.iter().filter(is_early).map(|kek| (kek.id.clone(), kek.created)).collect()
}

/// Where a key is that is not of the provider's group, in words.
fn whereabouts(found: &Attributes) -> String {
    match &found.groups[..] {
        [] => "no object group".into(),
        groups => format!("object group {}", one_line(&groups.join(", "))),
    }
}

/// In the same time whichever bytes differ, for it is a server that gave them.
fn is_same(one: &Kek, other: &Kek) -> bool {
    one.expose().iter().zip(other.expose()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}
