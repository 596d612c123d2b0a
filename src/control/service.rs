//! The answering side: a thread a connection.

use std::fs::Permissions;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::places::{Places, Standing};
use super::socket::{Channel, ChannelError, Secrets, connect};
use super::{Failure, FailureKind, Interface, Peer};

/// How long a peer may take to make its next call. A client connects again where it took longer.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long whoever listens at a socket already may take to accept a connection.
const BIND_LIMIT: Duration = Duration::from_secs(5);
/// How long a peer may take to accept an answer.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
const SERVICE: &str = "org.varlink.service";

/// What answers the calls of one interface.
pub trait Service: Send + Sync + 'static {
    /// The calls it answers.
    type Calls: Interface;

    /// Answers one call. The reply is made by [`super::Method::Reply`]'s serialisation.
    fn answer(self: &Arc<Self>, peer: &Peer, call: Self::Calls, secrets: Secrets) -> Result<Value, Failure>;

    /// The descriptors that go with the answer to `call`, where that is no failure.
    fn beside(&self, _call: &Self::Calls) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// Whether `peer` may make any call at all; those who may not have few connections. Never blocks.
    fn knows(&self, _peer: &Peer) -> bool {
        true
    }
}

/// Listens at `path`, to which the permission bits `mode` let users connect. A socket that nobody answers is replaced;
/// where somebody answers, fails with `AddrInUse`.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match connect(path, BIND_LIMIT) {
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
    serve_within(service, listener, IDLE_LIMIT);
}

/// As [`serve`], and closes connections over which no call comes for as long as `idle`.
pub(super) fn serve_within<S: Service>(service: &Arc<S>, listener: &UnixListener, idle: Duration) {
    let places = Places::default();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = welcome(service, &places, stream, idle) {
                    log::warn!("cannot serve a connection: {error}");
                }
            }
            Err(error) => {
                log::warn!("cannot accept a connection: {error}");
                std::thread::sleep(Duration::from_millis(100)); // out of descriptors: do not spin
            }
        }
    }
}

fn welcome<S: Service>(
    service: &Arc<S>,
    places: &Places,
    stream: UnixStream,
    idle: Duration,
) -> io::Result<()> {
    let peer = Peer::of(&stream)?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    stream.set_read_timeout(Some(idle))?;
    let standing = Standing::of(peer.uid, service.knows(&peer));
    let Some(place) = places.take(peer.uid, standing, &stream)? else {
        if places.is_to_be_told() {
            log::warn!("too many connections are open: refused one of user {}", peer.uid);
        }
        // A peer that is gone already needs no answer.
        let _ = Channel::answerer(stream).send(&refuse::<S::Calls>(&no_place(&peer)), &[]);
        return Ok(());
    };
    let service = Arc::clone(service);
    std::thread::Builder::new().name("control".into()).spawn(move || {
        converse(stream, &peer, |channel, call, secrets| {
            let answered = place.during(|| answer_one(&service, &peer, channel, call, secrets));
            answered.unwrap_or(Err(ChannelError::Ended))
        });
    })?;
    Ok(())
}

fn no_place(peer: &Peer) -> Failure {
    Failure::new(
        FailureKind::NoDaemon,
        format!("too many connections are open: there is no place for one more of user {}", peer.uid),
    )
    .hint("try again when commands that run now have ended, or run the command as root")
}

/// Answers the calls that come over `stream` until the peer closes it or breaks the protocol.
pub fn serve_connection<S: Service>(service: &Arc<S>, stream: UnixStream) {
    match Peer::of(&stream) {
        Ok(peer) => converse(stream, &peer, |channel, call, secrets| {
            answer_one(service, &peer, channel, call, secrets)
        }),
        Err(error) => log::warn!("cannot tell who connected: {error}"),
    }
}

/// Has `answer` answer each call until the peer closes the connection, breaks the protocol or makes no more calls.
fn converse(
    stream: UnixStream,
    peer: &Peer,
    mut answer: impl FnMut(&mut Channel, Incoming, Secrets) -> Result<(), ChannelError>,
) {
    let mut channel = Channel::answerer(stream);
    loop {
        let outcome = match channel.receive::<Incoming>() {
            Ok(None) => return,
            Ok(Some((call, fds))) => answer(&mut channel, call, Secrets::new(fds)),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let level = if error.is_timeout() { log::Level::Debug } else { log::Level::Info };
            let failure = Failure::from_error(FailureKind::Protocol, &error);
            return log::log!(level, "closed the connection of process {}: {failure}", peer.pid);
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
        Some(name) => introspect::<S::Calls>(name, &parameters).map(|answer| (answer, Vec::new())),
        None => parse::<S::Calls>(&method, parameters).and_then(|call| {
            let fds = service.beside(&call);
            let answer = service.answer(peer, call, secrets);
            answer.map(|answer| (answer, fds)).map_err(|failure| refuse::<S::Calls>(&failure))
        }),
    };
    match answer {
        _ if oneway => Ok(()),
        Ok((parameters, fds)) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            channel.send(&Reply { parameters }, &fds)
        }
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

    /// Answers the call. Says whether the answer could be sent: a caller that is gone is told nothing.
    pub fn give<R: Serialize>(mut self, result: &Result<R, Failure>) -> bool {
        let sent = match result {
            Ok(reply) => self.channel.send(&json!({ "parameters": reply }), &[]),
            Err(failure) => self.channel.send(&refuse::<I>(failure), &[]),
        };
        if let Err(error) = &sent {
            log::warn!("cannot answer a call: {error}");
        }
        sent.is_ok()
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
