//! One conversation with one server: a connection, a version both speak, and a method an operation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustls::ClientConfig;
use ublk_targets::secret::{Kek, scrub_stack};

use super::certificate::unusable_key;
use super::connection::Connection;
use super::messages::{self, AnswerError, Attributes, Credential, Operation, Query, Reason, Version};
use super::ttlv::{Encoder, Structure};
use super::{CertificateInfo, ConfigError, Fault, KmipConfig, Limits, ServerAddress, meet, own, tls};
use crate::provider::{KekId, Revocation};

/// More than the deepest frame below a read from TLS uses.
const STACK_USED: usize = 64 * 1024;
/// Keys that one message asks for.
const BATCH: usize = 32;

/// What this host needs to talk to any server of a cluster; its files are read when it is made.
pub(super) struct Dialer<'a> {
    config: &'a KmipConfig,
    tls: Arc<ClientConfig>,
    credential: Option<Credential>,
    until: Instant,
}

impl<'a> Dialer<'a> {
    /// Whatever is done with it ends at `until`.
    pub fn new(config: &'a KmipConfig, until: Instant) -> Result<Self, ConfigError> {
        config.check()?;
        let credential = match (&config.user, &config.password_file) {
            (Some(user), Some(file)) => {
                Some(Credential { user: user.clone(), password: own::password(file)? })
            }
            _ => None,
        };
        Ok(Self { config, tls: tls::client_config(config)?, credential, until })
    }

    fn at_most(&self, limit: Duration) -> Duration {
        limit.min(self.until.saturating_duration_since(Instant::now()))
    }

    /// `fault`, or, where the server ended the handshake because it found nothing in common, what its certificate has to do
    /// with that.
    fn explained(&self, server: &ServerAddress, fault: Fault) -> Fault {
        if !matches!(fault, Fault::NothingInCommon) {
            return fault;
        }
        let limits = Limits {
            connect: self.at_most(self.config.limits.connect()).as_millis() as u64,
            ..self.config.limits
        };
        let met = meet::shown(server, self.config.proxy.as_ref(), &limits);
        match met.ok().and_then(|der| unusable_key(&der)) {
            Some(kind) => Fault::Certificate(format!("has a key of type {kind}, which blkseal cannot check")),
            None => fault,
        }
    }

    /// Connects to `server` and agrees on a version with it.
    pub fn session(&self, server: &ServerAddress) -> Result<Session<'_>, Fault> {
        let limit = self.at_most(self.config.limits.connect());
        let proxy = self.config.proxy.as_ref();
        let connection = Connection::open(server, proxy, Arc::clone(&self.tls), limit)
            .map_err(|fault| self.explained(server, fault))?;
        let mut session = Session { dialer: self, connection, version: Version::FIRST, offered: Vec::new() };
        session.agree_on_version()?;
        Ok(session)
    }
}

/// What a server knows of several KEKs.
#[derive(Default)]
pub(super) struct Survey {
    /// Each that it tells of.
    pub found: Vec<(KekId, Attributes)>,
    /// Each that it decided not to tell of, or tells nothing sensible of, and what it says.
    pub passed_over: Vec<(KekId, Fault)>,
    /// How many there was no time for.
    pub unread: usize,
}

impl Survey {
    /// A key that the server decided not to tell of is somebody else's, or gone; one that it tells nonsense of is none of
    /// blkseal's.
    fn add(&mut self, id: &KekId, answer: Result<Attributes, Fault>) -> Result<(), Fault> {
        match answer {
            Ok(found) => self.found.push((id.clone(), found)),
            Err(fault) if fault.refusal().is_some() || fault.is_nonsense() => {
                self.passed_over.push((id.clone(), fault));
            }
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Fails where what was passed over cannot be left at that: where it is the KEK `own`, which this host has made, and is
    /// not gone, or where the server tells nothing sensible of any key.
    pub fn checked(mut self, own: Option<&KekId>) -> Result<Self, Fault> {
        let nothing = self.found.is_empty();
        let is_serious = |(id, fault): &(KekId, Fault)| {
            own == Some(id) && !fault.is_gone() || nothing && fault.is_nonsense()
        };
        match self.passed_over.iter().position(is_serious) {
            Some(at) => Err(self.passed_over.swap_remove(at).1),
            None => Ok(self),
        }
    }
}

/// An open conversation.
pub(super) struct Session<'a> {
    dialer: &'a Dialer<'a>,
    connection: Connection,
    version: Version,
    offered: Vec<Version>,
}

impl Session<'_> {
    /// The best version that both speak. A server without Discover Versions is taken to speak the first that has it.
    fn agree_on_version(&mut self) -> Result<(), Fault> {
        let offered = self.call(Operation::DiscoverVersions, messages::write_discover, |payload| {
            Ok(messages::read_versions(payload)?)
        });
        self.offered = match offered {
            Err(fault) if fault.refusal() == Some(Reason::NotSupported) => vec![Version::FIRST],
            offered => offered?,
        };
        let spoken = Version::SPOKEN.into_iter().find(|version| self.offered.contains(version));
        self.version = spoken.ok_or(Fault::Version)?;
        Ok(())
    }

    fn call<T>(
        &mut self,
        operation: Operation,
        write: impl FnOnce(&mut Encoder),
        read: impl FnOnce(&Structure<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let request = messages::request(self.version, self.dialer.credential.as_ref(), operation, write);
        let limit = self.dialer.at_most(self.dialer.config.limits.answer());
        let answer = self.connection.exchange(&request, limit)?;
        read(&messages::payload(&answer, operation)?)
    }

    /// Asks what the server is and can do.
    pub fn query(&mut self) -> Result<Query, Fault> {
        self.call(Operation::Query, messages::write_query, |payload| Ok(messages::read_query(payload)?))
    }

    /// Has the server make a KEK, which is not active yet.
    pub fn create(&mut self, name: &str) -> Result<KekId, Fault> {
        let group = &self.dialer.config.group;
        let write = |encoder: &mut Encoder| messages::write_create(encoder, name, group);
        self.call(Operation::Create, write, |payload| Ok(messages::read_identifier(payload)?))
    }

    /// Makes an end of a KEK that nothing needs, whatever its state.
    pub fn discard(&mut self, id: &KekId) -> Result<(), Fault> {
        match self.destroy(id) {
            // Some take no active key for it.
            Err(fault) if fault.refusal().is_some() => {
                self.revoke(id, Revocation::Superseded)?;
                self.destroy(id)
            }
            destroyed => destroyed,
        }
    }

    /// Makes a KEK active.
    pub fn activate(&mut self, id: &KekId) -> Result<(), Fault> {
        self.change(Operation::Activate, id, |encoder| messages::write_identifier(encoder, id))
    }

    /// Takes a KEK out of use.
    pub fn revoke(&mut self, id: &KekId, why: Revocation) -> Result<(), Fault> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or_default();
        self.change(Operation::Revoke, id, |encoder| messages::write_revoke(encoder, id, why, now))
    }

    /// Ends a KEK.
    pub fn destroy(&mut self, id: &KekId) -> Result<(), Fault> {
        self.change(Operation::Destroy, id, |encoder| messages::write_identifier(encoder, id))
    }

    fn change(
        &mut self,
        operation: Operation,
        id: &KekId,
        write: impl FnOnce(&mut Encoder),
    ) -> Result<(), Fault> {
        self.call(operation, write, |payload| Ok(messages::check_identifier(payload, id)?))
    }

    /// What the server knows of a KEK.
    pub fn attributes(&mut self, id: &KekId) -> Result<Attributes, Fault> {
        let write = |encoder: &mut Encoder| messages::write_attributes_wanted(encoder, id);
        self.call(Operation::GetAttributes, write, |payload| Ok(messages::read_attributes(payload, id)?))
    }

    /// What the server knows of each of these KEKs, the first ones first, for as long as there is time: several a message
    /// where it takes that.
    pub fn survey(&mut self, ids: &[KekId]) -> Result<Survey, Fault> {
        let mut survey = Survey::default();
        let (mut rest, mut at_once) = (ids, BATCH);
        while !rest.is_empty() && self.has_time() {
            let (chunk, later) = rest.split_at(rest.len().min(at_once));
            let answers = match chunk {
                [id] => vec![self.attributes(id)],
                several => match self.attributes_at_once(several) {
                    Ok(answers) => answers,
                    // It knows no batches.
                    Err(Fault::Answer(_)) => {
                        at_once = 1;
                        continue;
                    }
                    Err(fault) => return Err(fault),
                },
            };
            for (id, answer) in chunk.iter().zip(answers) {
                survey.add(id, answer)?;
            }
            rest = later;
        }
        survey.unread = rest.len();
        Ok(survey)
    }

    fn attributes_at_once(&mut self, ids: &[KekId]) -> Result<Vec<Result<Attributes, Fault>>, Fault> {
        let operation = Operation::GetAttributes;
        let credential = self.dialer.credential.as_ref();
        let request =
            messages::batch(self.version, credential, operation, ids, messages::write_attributes_wanted);
        let limit = self.dialer.at_most(self.dialer.config.limits.answer());
        let answer = self.connection.exchange(&request, limit)?;
        let payloads = messages::payloads(&answer, operation, ids.len())?;
        let read = |(id, payload): (&KekId, Result<Structure<'_>, AnswerError>)| {
            Ok(messages::read_attributes(&payload?, id)?)
        };
        Ok(ids.iter().zip(payloads).map(read).collect())
    }

    /// Whether there is time left to ask for more, and to do something after it.
    fn has_time(&self) -> bool {
        self.dialer.until.saturating_duration_since(Instant::now()) > self.dialer.config.limits.call() / 4
    }

    /// Every KEK of the provider's object group that this host may see.
    pub fn locate(&mut self) -> Result<Vec<KekId>, Fault> {
        let group = &self.dialer.config.group;
        let write = |encoder: &mut Encoder| messages::write_locate(encoder, group);
        self.call(Operation::Locate, write, |payload| Ok(messages::read_located(payload)))
    }

    /// The KEK itself.
    pub fn key(&mut self, id: &KekId) -> Result<Kek, Fault> {
        let write = |encoder: &mut Encoder| messages::write_get(encoder, id);
        let key = self.call(Operation::Get, write, |payload| Ok(messages::read_key(payload, id)?));
        scrub_stack::<STACK_USED>();
        key
    }

    /// The versions that the server speaks, of those that blkseal speaks.
    pub fn versions(&self) -> &[Version] {
        &self.offered
    }

    /// The address that the connection leads to: the proxy's, where there is one.
    pub fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    /// The version of TLS and the cipher suite.
    pub fn protection(&self) -> (String, String) {
        self.connection.protection()
    }

    /// What the server's certificate says.
    pub fn certificate(&self) -> Option<CertificateInfo> {
        CertificateInfo::read(self.connection.certificate()?)
    }
}
