//! A test program that is killed leaves no servers behind.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Pki, PyKmip};

#[test]
#[ignore = "started by the test below"]
fn holds_servers_until_it_is_killed() {
    let pki = Pki::new();
    // By a thread that has ended since, as those of tests do.
    let start = || std::thread::scope(|scope| scope.spawn(|| PyKmip::start(&pki, "keys")).join().unwrap());
    let (running, hanging) = (start(), start());
    hanging.hang();
    eprintln!("ports {} {}", running.port, hanging.port);
    std::thread::sleep(Duration::from_secs(120));
}

#[test]
fn servers_end_with_a_program_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "orphans::holds_servers_until_it_is_killed"])
        // Where it leaves what it would have removed.
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ports = lines.filter_map(|line| Some(line.strip_prefix("ports ")?.to_owned())).next().unwrap();
    let ports: Vec<u16> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
    let listens = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
    assert!(ports.iter().all(listens));
    program.kill().unwrap();
    program.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while ports.iter().any(listens) {
        assert!(Instant::now() < end, "a server outlives its program");
        std::thread::sleep(Duration::from_millis(50));
    }
}
