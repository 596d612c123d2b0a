//! A server that does what no good server does.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::{Leaf, Pki};

/// What a fake answers to a request; the function that it is given passes one on to the server behind it. None closes the
/// connection.
pub type Handler = Arc<dyn Fn(&[u8], &dyn Fn(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> + Send + Sync>;

/// What a fake server does with each connection.
#[derive(Clone)]
pub enum Behaviour {
    /// Resets it.
    Reset,
    /// Sends these bytes instead of TLS, and closes.
    Plain(&'static [u8]),
    /// Finishes the handshake and says nothing after it.
    SilentAfterHandshake,
    /// Answers each request with these bytes.
    Answer(Vec<u8>),
    /// Passes requests on to the server at this port, and its answers back as the function changes them.
    Tamper(u16, fn(&mut [u8])),
    /// The same, but byte after byte with a pause between.
    Slow(u16, Duration),
    /// Does as the handler says, before the server at this port.
    Custom(u16, Handler),
}

/// A listening fake; it ends with this value.
pub struct FakeServer {
    pub port: u16,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl FakeServer {
    pub fn start(pki: &Pki, leaf: &Leaf, behaviour: Behaviour) -> Self {
        Self::start_at("127.0.0.1:0", pki, leaf, behaviour)
    }

    /// One with the certificate for 127.0.0.1, before the server at `port`.
    pub fn before(
        pki: &Pki,
        port: u16,
        handler: impl Fn(&[u8], &dyn Fn(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::start(pki, &pki.leaf_of("server"), Behaviour::Custom(port, Arc::new(handler)))
    }

    pub fn start_at(address: &str, pki: &Pki, leaf: &Leaf, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let listening = listener.local_addr().unwrap();
        let port = listening.port();
        let stop = Arc::new(AtomicBool::new(false));
        let fake = Arc::new(Fake { tls: server_config(leaf), backend: client_config(pki), behaviour });
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let fake = Arc::clone(&fake);
                // Clients that give up break their connection, which is what they should do.
                thread::spawn(move || fake.serve(tcp).ok());
            }
        });
        Self { port, address: listening, stop }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener, so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

struct Fake {
    tls: Arc<ServerConfig>,
    backend: Arc<ClientConfig>,
    behaviour: Behaviour,
}

impl Fake {
    fn serve(&self, mut tcp: TcpStream) -> io::Result<()> {
        match &self.behaviour {
            Behaviour::Reset => {
                reset(&tcp);
                return Ok(());
            }
            Behaviour::Plain(bytes) => return tcp.write_all(bytes),
            _ => {}
        }
        let mut client = StreamOwned::new(ServerConnection::new(Arc::clone(&self.tls)).unwrap(), tcp);
        loop {
            let request = message(&mut client)?;
            match &self.behaviour {
                Behaviour::Answer(bytes) => {
                    client.write_all(bytes)?;
                    client.flush()?;
                }
                Behaviour::Tamper(port, change) => {
                    let mut answer = self.ask(*port, &request)?;
                    change(&mut answer);
                    client.write_all(&answer)?;
                    client.flush()?;
                }
                Behaviour::Slow(port, pause) => {
                    for byte in self.ask(*port, &request)? {
                        client.write_all(&[byte])?;
                        client.flush()?;
                        thread::sleep(*pause);
                    }
                }
                Behaviour::Custom(port, handler) => {
                    let ask = |request: &[u8]| self.ask(*port, request).unwrap_or_default();
                    let Some(answer) = handler(&request, &ask) else { return Ok(()) };
                    client.write_all(&answer)?;
                    client.flush()?;
                }
                Behaviour::SilentAfterHandshake | Behaviour::Reset | Behaviour::Plain(_) => {}
            }
        }
    }

    fn ask(&self, port: u16, request: &[u8]) -> io::Result<Vec<u8>> {
        let name = "127.0.0.1".try_into().unwrap();
        let connection = ClientConnection::new(Arc::clone(&self.backend), name).unwrap();
        let mut server = StreamOwned::new(connection, TcpStream::connect(("127.0.0.1", port))?);
        server.write_all(request)?;
        message(&mut server)
    }
}

fn message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 8];
    stream.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[4..].try_into().unwrap());
    message.resize(8 + length as usize, 0);
    stream.read_exact(&mut message[8..])?;
    Ok(message)
}

/// Has the kernel answer with RST when the connection is closed.
fn reset(tcp: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the option's value is a whole `linger`, read during the call.
    let done = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

fn chain(leaf: &Leaf) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = vec![CertificateDer::from_pem_file(&leaf.certificate).unwrap()];
    (chain, PrivateKeyDer::from_pem_file(&leaf.key).unwrap())
}

fn server_config(leaf: &Leaf) -> Arc<ServerConfig> {
    let (chain, key) = chain(leaf);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

fn client_config(pki: &Pki) -> Arc<ClientConfig> {
    let (chain, key) = chain(&Leaf { certificate: pki.certificate("host"), key: pki.key("host") });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca_file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(builder.with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap())
}
