//! Key servers, certificates, and a provider to try on them.

mod fake;
pub mod message;
mod pki;
mod pykmip;
pub mod store;

pub use fake::{Behaviour, FakeServer};
pub use pki::{Leaf, Pki};
pub use pykmip::PyKmip;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use blkseal::provider::kmip::{KmipConfig, KmipEvent, KmipProvider, Limits, Trust};

/// Generous beside what a healthy server needs on a busy machine, short beside [`BOUND`].
pub const LIMITS: Limits = Limits { connect: 3_000, answer: 3_000, call: 12_000, replication: 300 };
/// What never ends counts as failed after this.
const BOUND: Duration = Duration::from_secs(60);

/// A port of this host that nobody listens at, and none that the kernel gives to an outgoing connection before a server
/// takes it: those are from 32768 on. Two test programs at once begin at different ones.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    const EACH: u16 = 120;
    let first = 10_000 + (std::process::id() % 180) as u16 * EACH;
    let mut ports = std::iter::repeat_with(|| first + TAKEN.fetch_add(1, Ordering::Relaxed) % EACH);
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A provider and what it told.
pub struct Client {
    pub provider: KmipProvider,
    pub events: Arc<Mutex<Vec<KmipEvent>>>,
}

impl Client {
    pub fn new(config: KmipConfig) -> Self {
        let events: Arc<Mutex<Vec<KmipEvent>>> = Arc::default();
        let sink = Arc::clone(&events);
        let observer = Arc::new(move |_: &_, event: &KmipEvent| sink.lock().unwrap().push(event.clone()));
        Self { provider: KmipProvider::new("cluster".parse().unwrap(), config, observer), events }
    }

    pub fn events(&self) -> Vec<KmipEvent> {
        std::mem::take(&mut self.events.lock().unwrap())
    }
}

/// Settings for the servers at these ports of 127.0.0.1.
pub fn config(pki: &Pki, ports: &[u16]) -> KmipConfig {
    let servers = ports.iter().map(|port| format!("127.0.0.1:{port}").parse().unwrap()).collect();
    let trust = Trust::Ca(pki.ca_file());
    let mut config = KmipConfig::new(servers, trust, pki.certificate("host"), pki.key("host"));
    config.limits = LIMITS;
    config
}

/// What `work` returns, and how long it took. Fails where it takes longer than any limit could explain.
pub fn bounded<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> (T, Duration) {
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if receiver.recv_timeout(BOUND) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("no end of: {what}");
                std::process::abort();
            }
        });
        let done = work();
        drop(sender);
        (done, start.elapsed())
    })
}
