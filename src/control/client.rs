//! The calling side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ublk_targets::secret::Secret;

use super::socket::{Channel, ChannelError, connect};
use super::{Failure, FailureKind, Method};

/// How long a daemon may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// A connection to a daemon or a worker. Each call blocks until it is answered.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    /// Where to connect again, should the connection be closed between two calls: the daemon closes idle ones.
    socket: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Outgoing<'a, M> {
    method: &'static str,
    parameters: &'a M,
}

#[derive(Debug, Deserialize)]
struct Incoming {
    error: Option<String>,
    parameters: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct ErrorParameters {
    message: Option<String>,
    hint: Option<String>,
}

impl Client {
    /// Connects to the daemon that listens at `socket`.
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        let stream = connect(socket, CONNECT_LIMIT).map_err(|error| no_daemon(socket, &error))?;
        Ok(Self { socket: Some(socket.to_owned()), ..Self::over(stream) })
    }

    /// Fails unless whatever listens at `socket` says what it is within `limit`.
    pub fn probe(socket: &Path, limit: Duration) -> Result<(), Failure> {
        let stream = connect(socket, limit).map_err(|error| no_daemon(socket, &error))?;
        let client = Self::over_with_limit(stream, limit);
        client.map_err(|error| no_daemon(socket, &error))?.call(&GetInfo {}, &[]).map(drop)
    }

    /// Makes calls over `stream`.
    pub fn over(stream: UnixStream) -> Self {
        Self { channel: Channel::caller(stream), socket: None }
    }

    /// Makes calls over `stream`, each to be answered within `limit`.
    pub fn over_with_limit(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self::over(stream))
    }

    /// Calls `method`; copies of `secrets` go with it as descriptors, in this order.
    pub fn call<M: Method>(&mut self, method: &M, secrets: &[&Secret]) -> Result<M::Reply, Failure> {
        let shared = secrets.iter().map(|secret| secret.share()).collect::<Result<Vec<_>, _>>();
        let shared = shared.map_err(|error| Failure::from_error(FailureKind::System, &error))?;
        let fds: Vec<_> = shared.iter().map(AsFd::as_fd).collect();
        self.call_with(method, &fds)
    }

    /// Calls `method` with any descriptors. What those of secret memory lead to must live until the answer is there.
    pub fn call_with<M: Method>(&mut self, method: &M, fds: &[BorrowedFd<'_>]) -> Result<M::Reply, Failure> {
        self.call_for_fds(method, fds).map(|(reply, _)| reply)
    }

    /// Calls `method` with any descriptors, and gives those that came beside the answer, too.
    pub fn call_for_fds<M: Method>(
        &mut self,
        method: &M,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(M::Reply, Vec<OwnedFd>), Failure> {
        let reply = match self.exchange(method, fds) {
            // Closed between two calls; this one was not read, so it may be made again.
            Err(error) if error.is_closed() => match self.socket.take() {
                Some(socket) => {
                    *self = Self::connect(&socket)?;
                    self.exchange(method, fds)
                }
                None => Err(error),
            },
            other => other,
        };
        let Some((reply, received)) = reply.map_err(broken)? else {
            return Err(Failure::new(
                FailureKind::NoDaemon,
                format!("the connection was closed before {} was answered", M::NAME),
            ));
        };
        let parameters = reply.parameters.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        match reply.error {
            Some(error) => Err(remote_failure(error, parameters)),
            None => serde_json::from_value(parameters)
                .map(|reply| (reply, received))
                .map_err(|error| protocol(format!("cannot understand the answer to {}: {error}", M::NAME))),
        }
    }

    /// Sends a call and receives the answer; none where the other side closes the connection instead.
    fn exchange<M: Method>(
        &mut self,
        method: &M,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Option<(Incoming, Vec<OwnedFd>)>, ChannelError> {
        let sent = self.channel.send(&Outgoing { method: M::NAME, parameters: method }, fds);
        match sent {
            // Who closes the connection at once says why before it does.
            Err(error) if error.is_closed() => match self.channel.receive() {
                Ok(Some(reason)) => Ok(Some(reason)),
                _ => Err(error),
            },
            other => other.and_then(|()| self.channel.receive()),
        }
    }
}

/// What every Varlink service answers to everybody.
#[derive(Debug, Deserialize, Serialize)]
struct GetInfo {}

impl Method for GetInfo {
    const NAME: &'static str = "org.varlink.service.GetInfo";
    type Reply = Value;
}

fn remote_failure(error: String, parameters: Value) -> Failure {
    let parameters: ErrorParameters = serde_json::from_value(parameters).unwrap_or_default();
    match FailureKind::from_error_name(&error) {
        Some(kind) => {
            Failure { hint: parameters.hint, ..Failure::new(kind, parameters.message.unwrap_or(error)) }
        }
        None => protocol(format!("the other side answered {error}")),
    }
}

fn protocol(message: String) -> Failure {
    Failure::new(FailureKind::Protocol, message).hint("use the same version of blkseal on both sides")
}

fn no_daemon(socket: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot reach the blkseal daemon at {}: {error}", socket.display());
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(FailureKind::NotPermitted, message).hint("run the command as root")
        }
        _ => Failure::new(FailureKind::NoDaemon, message).hint(
            "start it with 'systemctl start blkseald' or 'blkseal daemon', or name its socket with --socket",
        ),
    }
}

/// The failure behind a connection that broke.
fn broken(error: ChannelError) -> Failure {
    match error {
        error if error.is_timeout() => Failure::new(FailureKind::NoDaemon, "no answer in time"),
        ChannelError::Io(error) => {
            Failure::new(FailureKind::NoDaemon, format!("the connection broke: {error}"))
        }
        ChannelError::Truncated => Failure::new(FailureKind::NoDaemon, error.to_string()),
        other => {
            let Failure { message, .. } = Failure::from_error(FailureKind::Protocol, &other);
            protocol(message)
        }
    }
}
