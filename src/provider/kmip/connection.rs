//! A TCP connection to a server or through a proxy, TLS on it, and a limit on every wait.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, CertificateError, ClientConfig, ClientConnection, StreamOwned};
use zeroize::Zeroizing;

use super::messages::AnswerError;
use super::ttlv::{HEADER, MAX_MESSAGE, TtlvError};
use super::{Fault, ProxyAddress, ServerAddress, one_line};

/// Bytes that a proxy may answer with.
const PROXY_ANSWER_LIMIT: usize = 8192;

/// An open connection. Dropping it closes it.
pub(super) struct Connection {
    stream: StreamOwned<ClientConnection, TimedStream>,
    peer: SocketAddr,
}

impl Connection {
    /// Connects within `limit`, everything included.
    pub fn open(
        server: &ServerAddress,
        proxy: Option<&ProxyAddress>,
        tls: Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let wait = Wait::new("connection", limit);
        let name = server.server_name().ok_or_else(|| Fault::Resolve("not a name".into()))?;
        let (tcp, peer) = tcp(proxy.map_or(server, |proxy| &proxy.0), &wait)?;
        let mut stream = TimedStream { tcp, wait };
        if let Some(proxy) = proxy {
            pass_proxy(&mut stream, server).map_err(|error| match error {
                ProxyError::Io(error) => stream.wait.fault(error, Fault::Connect),
                ProxyError::Refused(problem) => Fault::Proxy { proxy: proxy.0.clone(), problem },
            })?;
        }
        let connection = ClientConnection::new(tls, name).map_err(tls_fault)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            if let Err(error) = stream.conn.complete_io(&mut stream.sock) {
                return Err(stream.sock.wait.fault(error, Fault::Broken));
            }
        }
        Ok(Self { stream, peer })
    }

    /// Sends `request` and receives one message, all within `limit`. The message is wiped when it is dropped.
    pub fn exchange(&mut self, request: &[u8], limit: Duration) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.stream.sock.wait = Wait::new("answer", limit);
        let answer = self.send_and_receive(request);
        answer.map_err(|error| self.stream.sock.wait.fault(error, Fault::Broken))?
    }

    fn send_and_receive(&mut self, request: &[u8]) -> io::Result<Result<Zeroizing<Vec<u8>>, Fault>> {
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let [.., l3, l2, l1, l0] = header;
        let length = HEADER + u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        if length > MAX_MESSAGE {
            return Ok(Err(AnswerError::from(TtlvError::TooLong(length)).into()));
        }
        // All of the room at once: a vector that grows leaves copies behind.
        let mut message = Zeroizing::new(vec![0; length]);
        message[..HEADER].copy_from_slice(&header);
        self.stream.read_exact(&mut message[HEADER..])?;
        Ok(Ok(message))
    }

    /// The address that the connection leads to: the proxy's, where there is one.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The version of TLS and the cipher suite, as their standards name them.
    pub fn protection(&self) -> (String, String) {
        let version = self.stream.conn.protocol_version().and_then(|version| version.as_str().map(spaced));
        let suite = self.stream.conn.negotiated_cipher_suite();
        let suite = suite.and_then(|suite| suite.suite().as_str().map(str::to_owned));
        (version.unwrap_or_default(), suite.unwrap_or_default())
    }

    /// The server's certificate, DER.
    pub fn certificate(&self) -> Option<&[u8]> {
        self.stream.conn.peer_certificates()?.first().map(AsRef::as_ref)
    }
}

/// `TLSv1_3` as people write it.
fn spaced(version: &str) -> String {
    version.replace("TLSv", "TLS ").replace('_', ".")
}

/// One wait: for what, how long, until when.
struct Wait {
    what: &'static str,
    limit: Duration,
    until: Instant,
}

impl Wait {
    fn new(what: &'static str, limit: Duration) -> Self {
        Self { what, limit, until: Instant::now() + limit }
    }

    /// What is left of it, never zero, which would mean for ever.
    fn left(&self) -> io::Result<Duration> {
        match self.until.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn timeout(&self) -> Fault {
        Fault::Timeout { waiting_for: self.what, limit: self.limit }
    }

    fn fault(&self, error: io::Error, otherwise: impl FnOnce(io::Error) -> Fault) -> Fault {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => self.timeout(),
            _ => match error.downcast::<rustls::Error>() {
                Ok(error) => tls_fault(error),
                Err(error) => otherwise(error),
            },
        }
    }
}

/// A socket whose reads and writes end with the wait that it is in, however little comes at a time.
struct TimedStream {
    tcp: TcpStream,
    wait: Wait,
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.tcp.set_read_timeout(Some(self.wait.left()?))?;
        self.tcp.read(buffer)
    }
}

impl Write for TimedStream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.tcp.set_write_timeout(Some(self.wait.left()?))?;
        self.tcp.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

/// Connects to the first of the host's addresses that answers.
fn tcp(to: &ServerAddress, wait: &Wait) -> Result<(TcpStream, SocketAddr), Fault> {
    let mut last = Fault::Resolve("the name has none".into());
    let addresses = resolve(to, wait)?;
    for (tried, address) in addresses.iter().enumerate() {
        // An address that swallows everything leaves time for the next.
        let share = |left: Duration| left / (addresses.len() - tried) as u32;
        match wait.left().and_then(|left| TcpStream::connect_timeout(address, share(left))) {
            Ok(tcp) => {
                // Only makes it faster; where the connection is broken already, the handshake says so.
                let _ = tcp.set_nodelay(true);
                return Ok((tcp, *address));
            }
            Err(error) => last = wait.fault(error, Fault::Connect),
        }
    }
    Err(last)
}

/// The host's addresses. The C library's resolver knows no limit, so it runs in a thread that may be left behind.
fn resolve(to: &ServerAddress, wait: &Wait) -> Result<Vec<SocketAddr>, Fault> {
    let (host, port) = (to.host().to_owned(), to.port());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let look_up = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody listens any more where it took too long.
        let _ = sender.send(found);
    };
    thread::Builder::new()
        .name("resolve".into())
        .spawn(look_up)
        .map_err(|e| Fault::Resolve(e.to_string()))?;
    let left = wait.left().map_err(|_| wait.timeout())?;
    match receiver.recv_timeout(left) {
        Ok(found) => found.map_err(|error| Fault::Resolve(one_line(&error.to_string()))),
        Err(_) => Err(Fault::Timeout { waiting_for: "address from the resolver", limit: wait.limit }),
    }
}

enum ProxyError {
    Io(io::Error),
    Refused(String),
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Asks an HTTP proxy for a tunnel to `server` (RFC 9110, 9.3.6).
fn pass_proxy(stream: &mut TimedStream, server: &ServerAddress) -> Result<(), ProxyError> {
    write!(stream, "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
    let mut answer = Vec::new();
    // Byte by byte, for what follows the empty line is TLS's.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
        if answer.len() > PROXY_ANSWER_LIMIT {
            return Err(ProxyError::Refused("answers with too much".into()));
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    let mut words = status.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some(code)) if code.len() == 3 && code.starts_with('2') => Ok(()),
        _ => Err(ProxyError::Refused(format!("answers {:?}", one_line(status)))),
    }
}

fn tls_fault(error: rustls::Error) -> Fault {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(problem) => Fault::Certificate(certificate_problem(&problem)),
        Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::AccessDenied),
        ) => Fault::Unaccepted(format!("{alert:?}")),
        Error::AlertReceived(AlertDescription::HandshakeFailure) => Fault::NothingInCommon,
        error => Fault::Tls(one_line(&error.to_string())),
    }
}

fn certificate_problem(problem: &CertificateError) -> String {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet (check both clocks)".into()
        }
        // A bad signature is what comes of two authorities with one name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by a trusted authority, and not pinned".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name".into()
        }
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed, or its authority's is, by a key or a hash of a type that blkseal cannot check, as P-521 and SHA-1 are"
                .into()
        }
        other => format!("is not valid: {}", one_line(&other.to_string())),
    }
}
