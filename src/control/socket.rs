//! Varlink's framing on a blocking Unix socket: a JSON object and a NUL byte a message, of bounded size, with
//! descriptors beside its first byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ublk_targets::secret::Secret;

use super::{Failure, FailureKind, SecretFd};

/// Bytes of the longest call, its NUL byte included. A longer one ends the connection.
pub const MAX_CALL: usize = 64 << 10;
/// Bytes of the longest reply, its NUL byte included: a list of ten thousand volumes.
pub const MAX_REPLY: usize = 16 << 20;
/// Most descriptors beside one message.
pub const MAX_DESCRIPTORS: usize = 4;
/// Bytes of the longest passphrase or key file.
pub const MAX_SECRET: usize = 8192;
const CHUNK: usize = 8192;

/// Why no further message can be exchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error("the other side closed the connection within a message")]
    Truncated,
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    #[error("more than {MAX_DESCRIPTORS} descriptors came with a message")]
    TooManyDescriptors,
    #[error("it gave way to another one")]
    Ended,
    #[error("malformed message")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ChannelError {
    /// Whether nothing came, or could be sent, for as long as the connection allows.
    pub(super) fn is_timeout(&self) -> bool {
        let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        matches!(self, Self::Io(error) if kinds.contains(&error.kind()))
    }

    /// Whether the other side has closed the connection and will never read what was sent to it last (unix(7)).
    pub(super) fn is_closed(&self) -> bool {
        let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        matches!(self, Self::Io(error) if kinds.contains(&error.kind()))
    }
}

/// Connects to whoever listens at `path`, and has to accept the connection within `limit`: a listener that is stuck lets
/// others wait once its queue is full.
pub fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into());
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    match nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        other => other?,
    }
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// A connection that carries messages.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    send_limit: usize,
    receive_limit: usize,
    /// What was received and is not yet taken.
    buffer: Vec<u8>,
    /// Descriptors, each with the place in `buffer` of a byte of the message that they belong to.
    descriptors: Vec<(usize, OwnedFd)>,
}

impl Channel {
    /// The side that makes calls.
    pub(super) fn caller(stream: UnixStream) -> Self {
        Self::new(stream, MAX_CALL, MAX_REPLY)
    }

    /// The side that answers them.
    pub(super) fn answerer(stream: UnixStream) -> Self {
        Self::new(stream, MAX_REPLY, MAX_CALL)
    }

    fn new(stream: UnixStream, send_limit: usize, receive_limit: usize) -> Self {
        Self { stream, send_limit, receive_limit, buffer: Vec::new(), descriptors: Vec::new() }
    }

    /// Sends one message with `fds` beside it.
    pub(super) fn send<T: Serialize>(
        &mut self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut bytes = serde_json::to_vec(message)?;
        bytes.push(0);
        if bytes.len() > self.send_limit {
            return Err(ChannelError::TooLong(self.send_limit));
        }
        let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let mut sent = 0;
        while sent < bytes.len() {
            let rights = [ControlMessage::ScmRights(&fds)];
            let control = if sent == 0 && !fds.is_empty() { &rights[..] } else { &[] };
            let slice = [IoSlice::new(&bytes[sent..])];
            match sendmsg::<()>(self.stream.as_raw_fd(), &slice, control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(count) => sent += count,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        Ok(())
    }

    /// The next message and the descriptors beside it; none where the other side closed the connection after the
    /// last.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let mut searched = 0;
        let end = loop {
            match self.buffer[searched..].iter().position(|&byte| byte == 0) {
                Some(at) => break searched + at + 1,
                None => searched = self.buffer.len(),
            }
            if searched >= self.receive_limit {
                return Err(ChannelError::TooLong(self.receive_limit));
            }
            match self.receive_chunk()? {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(ChannelError::Truncated),
                _ => {}
            }
        };
        if end > self.receive_limit {
            return Err(ChannelError::TooLong(self.receive_limit));
        }
        let message = serde_json::from_slice(&self.buffer[..end - 1])?;
        self.buffer.drain(..end);
        let (ours, later) = std::mem::take(&mut self.descriptors).into_iter().partition(|(at, _)| *at < end);
        self.descriptors = later;
        self.descriptors.iter_mut().for_each(|(at, _)| *at -= end);
        let ours: Vec<(usize, OwnedFd)> = ours;
        Ok(Some((message, ours.into_iter().map(|(_, fd)| fd).collect())))
    }

    fn receive_chunk(&mut self) -> Result<usize, ChannelError> {
        let mut chunk = [0; CHUNK];
        let (count, fds) = receive(self.stream.as_fd(), &mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        // A read that takes descriptors ends with the write that carried them (unix(7)): its last byte is of the
        // message that they belong to.
        let at = self.buffer.len().saturating_sub(1);
        self.descriptors.extend(fds.into_iter().map(|fd| (at, fd)));
        if self.descriptors.len() > MAX_DESCRIPTORS {
            Err(ChannelError::TooManyDescriptors)
        } else {
            Ok(count)
        }
    }
}

/// One recvmsg(2). The descriptors close on exec, so that no worker inherits what a peer has sent.
fn receive(stream: BorrowedFd<'_>, buf: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    loop {
        let mut slice = [IoSliceMut::new(buf)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(stream.as_raw_fd(), &mut slice, Some(&mut space), flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                for control in message.cmsgs().map_err(io::Error::from)? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just installed these descriptors for this call alone.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                if message.flags.contains(MsgFlags::MSG_CTRUNC) {
                    return Err(ChannelError::TooManyDescriptors);
                }
                return Ok((message.bytes, fds));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
}

/// The descriptors that came with a call, each to be taken once.
#[derive(Debug, Default)]
pub struct Secrets(Vec<Option<OwnedFd>>);

impl Secrets {
    pub(super) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter().map(Some).collect())
    }

    /// The descriptor that the message calls `index`, whatever it stands for.
    pub fn take_fd(&mut self, index: u32) -> Result<OwnedFd, Failure> {
        let fd = usize::try_from(index).ok().and_then(|at| self.0.get_mut(at)).and_then(Option::take);
        fd.ok_or_else(|| {
            let message = format!("no descriptor {index} came with the call");
            Failure::new(FailureKind::InvalidArgument, message)
        })
    }

    /// The secret that the message calls `index`: 1 to 8192 bytes of secret memory.
    pub fn take(&mut self, index: SecretFd) -> Result<Secret, Failure> {
        Secret::from_fd_at_most(self.take_fd(index.0)?, MAX_SECRET)
            .map_err(|error| Failure::from_error(FailureKind::InvalidArgument, &error))
    }
}
