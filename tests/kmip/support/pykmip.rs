//! PyKMIP, a process a server.

use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::pki::write;
use super::{Leaf, Pki, free_port};

/// Becomes a server, whose process group is killed at the end of standard input: with the test program, however that ends.
/// A signal at the end of the parent (PR_SET_PDEATHSIG) would come when the thread of a test that started it ends. What
/// waits for the end is in a session of its own, so that it goes on where the server is stopped.
const SERVER: &str = r#"
exec 3<&0
setsid sh -c 'read -r _ <&3; kill -9 "-$1"' sh $$ &
exec "$0" "$@" </dev/null 3<&-
"#;

/// A server; it ends with this value. Servers with the same `database` share their keys.
pub struct PyKmip {
    pub port: u16,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl PyKmip {
    pub fn start(pki: &Pki, database: &str) -> Self {
        let leaf = Leaf { certificate: pki.certificate("server"), key: pki.key("server") };
        Self::start_as(pki, database, &leaf)
    }

    /// One that shows the certificate `leaf`.
    pub fn start_as(pki: &Pki, database: &str, leaf: &Leaf) -> Self {
        let port = free_port();
        let config = pki.path(&format!("server-{port}.conf"));
        let policies = pki.path("policies");
        std::fs::create_dir_all(&policies).unwrap();
        let text = format!(
            "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={}\nkey_path={}\nca_path={}\n\
             auth_suite=TLS1.2\npolicy_path={}\nenable_tls_client_auth=True\nlogging_level=WARNING\n\
             database_path={}\n",
            leaf.certificate.display(),
            leaf.key.display(),
            pki.ca_file().display(),
            policies.display(),
            pki.path(database).display(),
        );
        write(&config, &text, 0o600);
        let mut server = Self { port, config, log: pki.path(&format!("server-{port}.log")), process: None };
        server.restart();
        server
    }

    /// Starts it, again or for the first time, and waits until it listens.
    pub fn restart(&mut self) {
        let program = std::env::var_os("BLKSEAL_PYKMIP").expect("BLKSEAL_PYKMIP: what ci/pykmip prints");
        let mut command = Command::new("sh");
        command.args(["-c", SERVER]).arg(program);
        command.arg("-f").arg(&self.config).arg("-l").arg(&self.log);
        // It has children of its own, which end with its group.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let mut process = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let exited = process.try_wait().unwrap();
            assert!(exited.is_none() && Instant::now() < end, "PyKMIP does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn stop(&mut self) {
        self.signal(Signal::SIGKILL);
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// From now on it accepts connections, by its kernel, and answers nothing.
    pub fn hang(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            killpg(Pid::from_raw(process.id() as i32), signal).unwrap();
        }
    }
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        self.stop();
    }
}
