//! The answering side: a thread a connection.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::socket::{Channel, ChannelError, Secrets};
use super::{Failure, FailureKind, Interface, Peer};

/// Most connections at a time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// Most of these that other users than this process's own may have together, so that nobody can shut it out.
const MAX_OF_OTHERS: usize = 48;
/// Most of these that one of them may have.
const MAX_OF_ONE: usize = 8;
/// How long a peer may take to accept an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
const SERVICE: &str = "org.varlink.service";

/// What answers the calls of one interface.
pub trait Service: Send + Sync + 'static {
    /// The calls it answers.
    type Calls: Interface;

    /// Answers one call. The reply is made by [`super::Method::Reply`]'s serialisation.
    fn answer(self: &Arc<Self>, peer: &Peer, call: Self::Calls, secrets: Secrets) -> Result<Value, Failure>;
}

/// Listens at `path`, to which the permission bits `mode` let users connect. A socket that nobody answers is replaced;
/// where somebody answers, fails with `AddrInUse`.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Accepts connections and serves each in a thread of its own, for ever.
pub fn serve<S: Service>(service: &Arc<S>, listener: &UnixListener) {
    let places = Places::default();
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("cannot accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(100)); // out of descriptors: do not spin
                continue;
            }
        };
        let peer = match Peer::of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                log::warn!("cannot tell who connected: {error}");
                continue;
            }
        };
        let Some(place) = places.take(peer.uid) else {
            log::debug!("too many connections are open: refused one of user {}", peer.uid);
            continue;
        };
        let service = Arc::clone(service);
        let spawned = std::thread::Builder::new().name("control".into()).spawn(move || {
            let _place = place;
            serve_peer(&service, stream, &peer);
        });
        if let Err(error) = spawned {
            log::warn!("cannot start a thread for a connection: {error}");
        }
    }
}

/// How many connections each user has.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<HashMap<u32, usize>>>);

/// One of [`MAX_CONNECTIONS`] places, given back when dropped.
struct Place {
    places: Places,
    uid: u32,
}

impl Places {
    fn take(&self, uid: u32) -> Option<Place> {
        let own = geteuid().as_raw();
        // A panic elsewhere cannot have left the counts half changed.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = open.values().sum();
        let others = total - open.get(&own).unwrap_or(&0);
        let of_user = open.entry(uid).or_default();
        let has_place =
            total < MAX_CONNECTIONS && (uid == own || (others < MAX_OF_OTHERS && *of_user < MAX_OF_ONE));
        *of_user += usize::from(has_place);
        open.retain(|_, count| *count > 0);
        has_place.then(|| Place { places: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
        }
        open.retain(|_, count| *count > 0);
    }
}

/// Answers the calls that come over `stream` until the peer closes it or breaks the protocol.
pub fn serve_connection<S: Service>(service: &Arc<S>, stream: UnixStream) {
    match Peer::of(&stream) {
        Ok(peer) => serve_peer(service, stream, &peer),
        Err(error) => log::warn!("cannot tell who connected: {error}"),
    }
}

fn serve_peer<S: Service>(service: &Arc<S>, stream: UnixStream, peer: &Peer) {
    if let Err(error) = stream.set_write_timeout(Some(WRITE_LIMIT)) {
        return log::warn!("cannot limit how long an answer may take: {error}");
    }
    let mut channel = Channel::answerer(stream);
    loop {
        let outcome = match channel.receive::<Incoming>() {
            Ok(None) => return,
            Ok(Some((call, fds))) => answer_one(service, peer, &mut channel, call, Secrets::new(fds)),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let failure = Failure::from_error(FailureKind::Protocol, &error);
            return log::info!("closed the connection of process {}: {failure}", peer.pid);
        }
    }
}

#[derive(Debug, Deserialize)]
struct Incoming {
    method: String,
    parameters: Option<Value>,
    #[serde(default)]
    oneway: bool,
}

#[derive(Debug, Serialize)]
struct Reply {
    parameters: Value,
}

#[derive(Debug, Serialize)]
struct Refusal {
    error: String,
    parameters: Value,
}

fn answer_one<S: Service>(
    service: &Arc<S>,
    peer: &Peer,
    channel: &mut Channel,
    call: Incoming,
    secrets: Secrets,
) -> Result<(), ChannelError> {
    let Incoming { method, parameters, oneway } = call;
    let parameters = parameters.unwrap_or_else(|| json!({}));
    let answer = match method.strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('.')) {
        Some(name) => introspect::<S::Calls>(name, &parameters),
        None => parse::<S::Calls>(&method, parameters).and_then(|call| {
            service.answer(peer, call, secrets).map_err(|failure| refuse::<S::Calls>(&failure))
        }),
    };
    match answer {
        _ if oneway => Ok(()),
        Ok(parameters) => channel.send(&Reply { parameters }, &[]),
        Err(refusal) => channel.send(&refusal, &[]),
    }
}

/// Where the answer to one call is to go, when it is given later than the call came.
pub struct Answer<I> {
    channel: Channel,
    interface: PhantomData<I>,
}

impl<I: Interface> Answer<I> {
    /// Receives the first call that comes over `stream`, within `limit`.
    pub fn to_first_call(stream: UnixStream, limit: Duration) -> Result<(I, Secrets, Self), Failure> {
        let failed = |error: &dyn std::error::Error| Failure::from_error(FailureKind::Protocol, error);
        stream.set_read_timeout(Some(limit)).map_err(|error| failed(&error))?;
        let mut answer = Self { channel: Channel::answerer(stream), interface: PhantomData };
        let received = answer.channel.receive::<Incoming>().map_err(|error| failed(&error))?;
        let Some((Incoming { method, parameters, .. }, fds)) = received else {
            return Err(Failure::new(FailureKind::Protocol, "the caller hung up without a call"));
        };
        match parse::<I>(&method, parameters.unwrap_or_else(|| json!({}))) {
            Ok(call) => Ok((call, Secrets::new(fds), answer)),
            Err(refusal) => {
                let message = format!("cannot make sense of a call: {}", refusal.error);
                answer.channel.send(&refusal, &[]).map_err(|error| failed(&error))?;
                Err(Failure::new(FailureKind::Protocol, message))
            }
        }
    }

    /// Answers the call. A caller that is gone is told nothing.
    pub fn give<R: Serialize>(mut self, result: &Result<R, Failure>) {
        let sent = match result {
            Ok(reply) => self.channel.send(&json!({ "parameters": reply }), &[]),
            Err(failure) => self.channel.send(&refuse::<I>(failure), &[]),
        };
        if let Err(error) = sent {
            log::warn!("cannot answer a call: {error}");
        }
    }
}

fn parse<I: Interface>(method: &str, parameters: Value) -> Result<I, Refusal> {
    match I::parse(method, parameters) {
        Some(Ok(call)) => Ok(call),
        Some(Err(error)) => Err(refuse::<I>(&Failure::new(
            FailureKind::InvalidArgument,
            format!("the parameters of {method} are wrong: {error}"),
        ))),
        None if method.rsplit_once('.').is_some_and(|(interface, _)| interface == I::NAME) => {
            Err(service_error("MethodNotFound", json!({ "method": method })))
        }
        None => {
            let interface = method.rsplit_once('.').map_or(method, |(interface, _)| interface);
            Err(service_error("InterfaceNotFound", json!({ "interface": interface })))
        }
    }
}

fn refuse<I: Interface>(failure: &Failure) -> Refusal {
    let error = format!("{}.{:?}", I::NAME, failure.kind);
    Refusal { error, parameters: json!({ "message": failure.message, "hint": failure.hint }) }
}

fn service_error(name: &str, parameters: Value) -> Refusal {
    Refusal { error: format!("{SERVICE}.{name}"), parameters }
}

/// The methods of `org.varlink.service`, which tell what this service is.
fn introspect<I: Interface>(method: &str, parameters: &Value) -> Result<Value, Refusal> {
    match method {
        "GetInfo" => Ok(json!({
            "vendor": "blkseal",
            "product": "blkseal",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": [SERVICE, I::NAME],
        })),
        "GetInterfaceDescription" => match parameters["interface"].as_str() {
            Some(name) if name == I::NAME => Ok(json!({ "description": I::DESCRIPTION })),
            Some(SERVICE) => Ok(json!({ "description": include_str!("org.varlink.service.varlink") })),
            Some(name) => Err(service_error("InterfaceNotFound", json!({ "interface": name }))),
            None => Err(service_error("InvalidParameter", json!({ "parameter": "interface" }))),
        },
        _ => Err(service_error("MethodNotFound", json!({ "method": format!("{SERVICE}.{method}") }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_cannot_take_every_place() {
        let (places, own) = (Places::default(), geteuid().as_raw());
        let mut taken: Vec<Place> = Vec::new();
        for uid in own + 1..own + 20 {
            taken.extend((0..20).map_while(|_| places.take(uid)));
            assert!(
                taken.len() <= MAX_OF_OTHERS
                    && taken.iter().filter(|place| place.uid == uid).count() <= MAX_OF_ONE
            );
        }
        assert_eq!(taken.len(), MAX_OF_OTHERS);
        taken.extend((0..20).map_while(|_| places.take(own)));
        assert_eq!(taken.len(), MAX_CONNECTIONS);
        assert!(places.take(own).is_none());
        taken.retain(|place| place.uid != own + 1);
        assert!(places.take(own + 1).is_some(), "a place that is given back can be taken");
        drop(taken);
        assert!(places.0.lock().unwrap().is_empty());
    }
}
