//! Many connections at a time, and such as nobody uses.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::{Value, json};

use crate::control::peer_tests::as_user;
use crate::control::service::serve_within;
use crate::control::{
    self, Client, DaemonCalls, Failure, FailureKind, List, Method, Peer, Ping, Secrets, Service,
};

/// How long a test waits for what must come, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(120);
const STRANGER: u32 = 4002;

/// Answers pings at once, and lists when the test says so.
struct Slow {
    began: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Service for Slow {
    type Calls = DaemonCalls;

    fn answer(self: &Arc<Self>, _: &Peer, call: DaemonCalls, _: Secrets) -> Result<Value, Failure> {
        if matches!(call, DaemonCalls::List(_)) {
            self.began.lock().unwrap().send(()).unwrap();
            let _ = self.go_on.lock().unwrap().recv();
        }
        Ok(json!({}))
    }

    fn knows(&self, peer: &Peer) -> bool {
        peer.uid != STRANGER
    }
}

struct Host {
    socket: PathBuf,
    began: Receiver<()>,
    /// Dropped, all slow calls end.
    _go_on: Sender<()>,
    _directory: tempfile::TempDir,
}

impl Host {
    fn start(idle: Duration) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = directory.path().join("socket");
        let listener = control::bind(&socket, 0o666).unwrap();
        let ((began_sender, began), (go_on, go_on_receiver)) = (channel(), channel());
        let service = Slow { began: Mutex::new(began_sender), go_on: Mutex::new(go_on_receiver) };
        std::thread::spawn(move || serve_within(&Arc::new(service), &listener, idle));
        Self { socket, began, _go_on: go_on, _directory: directory }
    }

    /// A connection over which a call is under way.
    fn call_slowly(&self) -> UnixStream {
        let stream = begin(&self.socket);
        self.began.recv_timeout(PATIENCE).unwrap();
        stream
    }
}

fn begin(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    let call = format!("{}\0", json!({ "method": List::NAME }));
    std::io::Write::write_all(&mut &stream, call.as_bytes()).unwrap();
    stream
}

fn ping(socket: &Path) -> Result<(), Failure> {
    let stream = control::connect(socket, PATIENCE).unwrap();
    Client::over_with_limit(stream, PATIENCE).unwrap().call(&Ping {}, &[]).map(drop)
}

#[test]
fn connections_that_nobody_uses_keep_nobody_out() {
    let host = Host::start(PATIENCE);
    let idle: Vec<_> = (0..200).map(|_| UnixStream::connect(&host.socket).unwrap()).collect();
    ping(&host.socket).unwrap();
    drop(idle);
}

#[test]
fn calls_whose_callers_have_given_up_keep_nobody_out() {
    let host = Host::start(PATIENCE);
    (0..100).for_each(|_| drop(host.call_slowly()));
    ping(&host.socket).unwrap();
}

#[test]
fn root_gets_in_beside_any_number_of_calls_under_way() {
    let host = Host::start(PATIENCE);
    let waiting: Vec<_> = (0..70).map(|_| host.call_slowly()).collect();
    ping(&host.socket).unwrap();
    drop(waiting);
}

#[test]
fn who_is_refused_is_told_why_and_what_to_do() {
    let host = Host::start(PATIENCE);
    let socket = &host.socket;
    let waiting = as_user(STRANGER, 4999, &[], || [(); 4].map(|()| begin(socket)));
    let Some(_waiting) = waiting else { return };
    (0..4).for_each(|_| host.began.recv_timeout(PATIENCE).unwrap());
    let refused = as_user(STRANGER, 4999, &[], || {
        let by_name = Client::connect(socket).unwrap().call(&Ping {}, &[]);
        (ping(socket).unwrap_err(), by_name.unwrap_err())
    });
    let Some((first, second)) = refused else { return };
    for failure in [first, second] {
        assert_eq!(failure.kind, FailureKind::NoDaemon);
        assert!(failure.message.starts_with("too many connections are open"), "{failure}");
        assert!(failure.hint.unwrap().contains("try again"));
    }
    as_user(4003, 4999, &[], || ping(socket)).unwrap().unwrap();
}

#[test]
fn an_idle_connection_is_closed() {
    let host = Host::start(Duration::from_millis(50));
    let mut idle = UnixStream::connect(&host.socket).unwrap();
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_whose_connection_was_closed_between_two_calls_connects_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let answer_once = || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        std::io::Write::write_all(&mut stream, b"{}\0").unwrap();
    };
    std::thread::scope(|scope| {
        let mut client = Client::connect(&path).unwrap();
        let first = scope.spawn(answer_once);
        client.call(&Ping {}, &[]).unwrap();
        first.join().unwrap();
        scope.spawn(answer_once);
        client.call(&Ping {}, &[]).unwrap();
    });
}

#[test]
fn a_service_that_does_not_answer_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let short = Duration::from_millis(50);
    assert_eq!(Client::probe(&path, short).unwrap_err().kind, FailureKind::NoDaemon);
    let stuck = UnixListener::bind(&path).unwrap();
    assert_eq!(Client::probe(&path, short).unwrap_err().message, "no answer in time");
    drop(stuck);
    let host = Host::start(PATIENCE);
    Client::probe(&host.socket, PATIENCE).unwrap();
}

#[test]
fn a_service_that_does_not_accept_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(std::os::fd::AsRawFd::as_raw_fd(&listener), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let connect = || control::connect(&path, Duration::from_millis(50));
    let error = std::iter::repeat_with(connect).take(5).find_map(Result::err).expect("the queue is full");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}
