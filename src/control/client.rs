//! The calling side.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ublk_targets::secret::Secret;

use super::socket::{Channel, ChannelError};
use super::{Failure, FailureKind, Method};

/// A connection to a daemon or a worker. Each call blocks until it is answered.
#[derive(Debug)]
pub struct Client(Channel);

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
        let stream = UnixStream::connect(socket).map_err(|error| no_daemon(socket, &error))?;
        Ok(Self::over(stream))
    }

    /// Makes calls over `stream`.
    pub fn over(stream: UnixStream) -> Self {
        Self(Channel::caller(stream))
    }

    /// Makes calls over `stream`, each to be answered within `limit`.
    pub fn over_with_limit(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self::over(stream))
    }

    /// Calls `method`; the descriptors of `secrets` go with it, in this order. They must live until the answer is
    /// there: dropping a secret wipes the pages that the other side shares.
    pub fn call<M: Method>(&mut self, method: &M, secrets: &[&Secret]) -> Result<M::Reply, Failure> {
        let fds: Vec<_> = secrets.iter().map(|secret| secret.fd()).collect();
        self.call_with(method, &fds)
    }

    /// Calls `method` with any descriptors of secret memory.
    pub fn call_with<M: Method>(&mut self, method: &M, fds: &[BorrowedFd<'_>]) -> Result<M::Reply, Failure> {
        self.0.send(&Outgoing { method: M::NAME, parameters: method }, fds).map_err(broken)?;
        let Some((reply, _)) = self.0.receive::<Incoming>().map_err(broken)? else {
            return Err(Failure::new(
                FailureKind::NoDaemon,
                format!("the connection was closed before {} was answered", M::NAME),
            ));
        };
        let parameters = reply.parameters.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        match reply.error {
            Some(error) => Err(remote_failure(error, parameters)),
            None => serde_json::from_value(parameters)
                .map_err(|error| protocol(format!("cannot understand the answer to {}: {error}", M::NAME))),
        }
    }
}

fn remote_failure(error: String, parameters: Value) -> Failure {
    let parameters: ErrorParameters = serde_json::from_value(parameters).unwrap_or_default();
    match FailureKind::from_error_name(&error) {
        Some(kind) => Failure { kind, message: parameters.message.unwrap_or(error), hint: parameters.hint },
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
        ChannelError::Io(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
        {
            Failure::new(FailureKind::NoDaemon, "no answer in time")
        }
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
