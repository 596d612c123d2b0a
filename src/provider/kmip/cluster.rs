//! Several servers as one: each call goes to the first that answers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::certificate::date;
use super::health::Health;
use super::session::{Dialer, Session};
use super::{ConfigError, Fault, KmipConfig, ServerAddress, ServerError};
use crate::provider::{KekId, KekState, ProviderName};

/// How often all servers are tried in one call.
const ROUNDS: u32 = 2;
/// The pause between the rounds.
const PAUSE: Duration = Duration::from_millis(500);

/// Something about a provider's servers or keys that an administrator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KmipEvent {
    /// A server that was well, or that nothing was known of, did not do what it was asked; the next is tried. Told once
    /// until it answers again, for an outage may be long; told of each refusal because of which another server is asked.
    ServerFailed {
        /// The server.
        server: ServerAddress,
        /// Why, in one line.
        why: String,
    },
    /// Another server answers than the last time, or one that has failed since.
    NowUsing(ServerAddress),
    /// No server answers any more.
    AllFailed,
    /// A server made a KEK.
    KeyMade {
        /// The KEK.
        id: KekId,
        /// The server.
        server: ServerAddress,
    },
    /// A server changed the state of a KEK.
    KeyChanged {
        /// The KEK.
        id: KekId,
        /// The server.
        server: ServerAddress,
        /// What it is now.
        state: KekState,
    },
    /// A KEK came from a server into locked memory.
    KeyFetched {
        /// The KEK.
        id: KekId,
        /// The server.
        server: ServerAddress,
    },
    /// A KEK was used that should be replaced.
    KeyOutOfUse {
        /// The KEK.
        id: KekId,
        /// The server that says so.
        server: ServerAddress,
        /// Its state.
        state: KekState,
    },
    /// A KEK was wiped from memory.
    KeyDropped(KekId),
    /// A KEK wraps although a server has it not, as the settings allow.
    KeyNotReplicated {
        /// The KEK.
        id: KekId,
        /// The server that has it not.
        lacking: ServerAddress,
    },
    /// An active KEK has a date that has not come yet, so that it does not count as the newest. Told once of each.
    KeyFromTheFuture {
        /// The KEK.
        id: KekId,
        /// When it was made, as it says.
        created: SystemTime,
    },
    /// There are more keys than there was time to look at.
    KeysUnread {
        /// The server that was asked.
        server: ServerAddress,
        /// How many.
        count: usize,
    },
}

impl fmt::Display for KmipEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerFailed { why, .. } => f.write_str(why),
            Self::NowUsing(server) => write!(f, "key server {server} is used now"),
            Self::AllFailed => f.write_str("no key server answers"),
            Self::KeyMade { id, server } => write!(f, "KEK {id} made by key server {server}"),
            Self::KeyChanged { id, server, state } => {
                write!(f, "KEK {id} made {state} by key server {server}")
            }
            Self::KeyFetched { id, server } => write!(f, "KEK {id} fetched from key server {server}"),
            Self::KeyOutOfUse { id, server, state } => {
                write!(
                    f,
                    "KEK {id} is {state}, says key server {server}: wrap its volumes' keys by another KEK"
                )
            }
            Self::KeyDropped(id) => write!(f, "KEK {id} wiped from memory"),
            Self::KeyNotReplicated { id, lacking } => {
                write!(f, "KEK {id} is used although key server {lacking} has it not")
            }
            Self::KeyFromTheFuture { id, created } => {
                let date = date(*created);
                write!(
                    f,
                    "KEK {id} says that it was made at {date}, which is to come: check the clocks; it does not count as the newest"
                )
            }
            Self::KeysUnread { server, count } => {
                write!(f, "key server {server} is too slow: {count} keys were not looked at")
            }
        }
    }
}

/// Is told of every event, in the thread that caused it.
pub type Observer = Arc<dyn Fn(&ProviderName, &KmipEvent) + Send + Sync>;

/// Why no server did what was asked.
#[derive(Debug)]
pub(super) enum ClusterError {
    /// What this host would need for it is not there.
    Ours(Fault),
    /// Every server is well and refuses; the first one's reason.
    Refused(ServerError),
    /// No server does it, and not each of them decided so; each with its last failure.
    NoServer(Vec<ServerError>),
}

/// What one server makes of what it was asked.
pub(super) type Opinion<T> = (ServerAddress, Result<T, Fault>);

/// The servers of a provider.
pub(super) struct Cluster {
    provider: ProviderName,
    config: KmipConfig,
    health: Mutex<Health>,
    observer: Observer,
}

impl Cluster {
    pub fn new(provider: ProviderName, config: KmipConfig, observer: Observer) -> Self {
        let health = Mutex::new(Health::new(config.servers.len()));
        Self { provider, config, health, observer }
    }

    pub fn config(&self) -> &KmipConfig {
        &self.config
    }

    pub fn tell(&self, event: &KmipEvent) {
        (self.observer)(&self.provider, event);
    }

    /// Whether no server answered when it was last asked. Never blocks for long.
    pub fn is_down(&self) -> bool {
        self.health().all_failed()
    }

    /// Runs `work` with the first server that does it. A call ends, one way or the other, soon after its time limit.
    pub fn call<T>(
        &self,
        work: impl Fn(&mut Session<'_>) -> Result<T, Fault>,
    ) -> Result<(T, ServerAddress), ClusterError> {
        let until = Instant::now() + self.config.limits.call();
        let was_down = self.is_down();
        let dialer = Dialer::new(&self.config, until).map_err(|error| ClusterError::Ours(error.into()))?;
        let mut failures: Vec<ServerError> = Vec::new();
        for round in 0..ROUNDS {
            if round > 0 {
                if until.saturating_duration_since(Instant::now()) <= PAUSE {
                    break;
                }
                thread::sleep(PAUSE);
                failures.clear();
            }
            for at in self.order() {
                if !failures.is_empty() && Instant::now() >= until {
                    break;
                }
                if let Some(refused) = failures.last().filter(|failure| failure.fault.is_final()) {
                    self.tell_failure(refused);
                }
                match dialer.session(&self.config.servers[at]).and_then(|mut session| work(&mut session)) {
                    Ok(done) => return Ok((done, self.answered(at))),
                    Err(fault) if fault.is_ours() => return Err(ClusterError::Ours(fault)),
                    Err(fault) => failures.push(self.failed(at, fault)),
                }
            }
            // One that did not answer may have what the others lack.
            let all_decided = failures.len() == self.config.servers.len()
                && failures.iter().all(|failure| failure.fault.is_final());
            if all_decided {
                return Err(ClusterError::Refused(failures.swap_remove(0)));
            }
        }
        if !was_down && self.is_down() {
            self.tell(&KmipEvent::AllFailed);
        }
        Err(ClusterError::NoServer(failures))
    }

    /// What each other server than `than` that has not failed lately makes of `work`, asked once.
    pub fn others<T>(
        &self,
        than: &ServerAddress,
        work: impl Fn(&mut Session<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<Opinion<T>>, ConfigError> {
        let dialer = Dialer::new(&self.config, Instant::now() + self.config.limits.call())?;
        let first = self.config.servers.iter().position(|server| server == than);
        let others = first.map_or_else(Vec::new, |first| self.health().others(first, Instant::now()));
        let ask = |at: usize| {
            let server = self.config.servers[at].clone();
            let answer = dialer.session(&server).and_then(|mut session| work(&mut session));
            let answer = match answer {
                Err(fault) if !fault.is_ours() => Err(self.failed(at, fault).fault),
                answer => answer,
            };
            (server, answer)
        };
        Ok(others.into_iter().map(ask).collect())
    }

    fn answered(&self, at: usize) -> ServerAddress {
        let server = self.config.servers[at].clone();
        let is_news = self.health().answered(at);
        if is_news {
            self.tell(&KmipEvent::NowUsing(server.clone()));
        }
        server
    }

    fn failed(&self, at: usize, fault: Fault) -> ServerError {
        let error = ServerError { server: self.config.servers[at].clone(), fault };
        // A server that refuses is well: it is not asked later than others because of that, and that it refuses is
        // told only where another is asked then.
        if !error.fault.is_final() && self.health().failed(at, Instant::now()) {
            self.tell_failure(&error);
        }
        error
    }

    fn tell_failure(&self, error: &ServerError) {
        self.tell(&KmipEvent::ServerFailed { server: error.server.clone(), why: error.line() });
    }

    fn order(&self) -> Vec<usize> {
        self.health().order(Instant::now())
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        // A panic elsewhere cannot have left it half changed.
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
