//! A daemon with directories of its own, and volumes on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::shell::{run_in, said};

/// What a host's key provider is sealed with.
pub const KEY_FILE: &str = "a key file's content, which is long enough";
/// The recovery passphrase that tests give to volumes.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// Waits until `condition` is met, which must be soon.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "not in 60 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A running daemon, its directories, and a native provider that is unlocked. All of it ends with this value.
pub struct Host {
    pub dir: tempfile::TempDir,
    /// Where the stable names of devices are. A daemon that was started before it is changed knows nothing of that.
    pub dev_dir: PathBuf,
    daemon: Option<Child>,
}

impl Host {
    /// A host with a provider `keys`.
    pub fn start() -> Self {
        let host = Self::without_provider();
        host.blkseal(&["provider", "add", "native", "keys", "--key-file", &host.path("key")]);
        host
    }

    /// A host that has no provider yet.
    pub fn without_provider() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key"), KEY_FILE).unwrap();
        fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.path().join("passphrase"), PASSPHRASE).unwrap();
        let mut host = Self { dev_dir: dir.path().join("dev"), dir, daemon: None };
        host.start_daemon();
        host
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_daemon(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let daemon = self.command(&["daemon"]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.daemon = Some(daemon);
        let start = Instant::now();
        while !self.try_blkseal(&["list"]).status.success() {
            assert!(start.elapsed() < Duration::from_secs(60), "no daemon: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Process id of the daemon.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Ends the daemon with a signal by name and waits for its end. Its workers live on.
    pub fn end_daemon(&mut self, signal: &str) {
        run_in(Command::new("kill").args([format!("-{signal}"), self.daemon_pid().to_string()]));
        self.wait_for_daemon();
    }

    /// Waits for the end of a daemon that was sent a signal.
    pub fn wait_for_daemon(&mut self) {
        self.daemon.take().unwrap().wait().unwrap();
    }

    /// A path in the host's directory.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// A `blkseal` command that talks to this host's daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_under(&["env"], arguments)
    }

    /// The same, run by another program that runs its last arguments.
    pub fn command_under(&self, runner: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(runner[0]);
        command
            .args(&runner[1..])
            .arg("blkseal")
            .args(arguments)
            .env("BLKSEAL_SOCKET", self.path("run/daemon.sock"))
            .env("BLKSEAL_RUN_DIR", self.path("run"))
            .env("BLKSEAL_STATE_DIR", self.path("state"))
            .env("BLKSEAL_CONFIG_DIR", self.path("etc"))
            .env("BLKSEAL_DEV_DIR", &self.dev_dir);
        command
    }

    /// Runs a `blkseal` command, which must succeed, and gives its standard output.
    pub fn blkseal(&self, arguments: &[&str]) -> String {
        let output = self.try_blkseal(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}\n{}",
            output.status,
            said(&output),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a `blkseal` command.
    pub fn try_blkseal(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What `blkseal ... --json` prints.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.blkseal(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// An empty image of `bytes` bytes.
    pub fn image(&self, name: &str, bytes: u64) -> String {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    /// The DEK of the volume whose header is on `device`, as stock cryptsetup gets it out with the recovery passphrase.
    pub fn dek_of(&self, device: &str) -> Vec<u8> {
        let (key, out) = (self.path("passphrase"), self.path("dek"));
        super::run(&format!(
            "cryptsetup luksDump -q --dump-volume-key --key-file {key} --volume-key-file {out} {device}"
        ));
        let dek = fs::read(&out).unwrap();
        fs::remove_file(out).unwrap();
        dek
    }

    /// A new volume `name` on `backing`, made with the further `options` of `create`.
    pub fn create(&self, name: &str, backing: &str, options: &[&str]) -> Volume<'_> {
        self.blkseal(&[&["create", backing, "--name", name], options].concat());
        let header = options.iter().position(|&o| o == "--header").map(|at| options[at + 1].to_owned());
        Volume { header, ..self.volume(name, backing) }
    }

    /// The volume `name` on `backing`, which is there already.
    pub fn volume(&self, name: &str, backing: &str) -> Volume<'_> {
        Volume { host: self, name: name.to_owned(), backing: backing.to_owned(), header: None }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever a failed test left open would hold its devices in the next test's way.
        if self.daemon.is_some() {
            let listed = self.try_blkseal(&["list", "--json"]).stdout;
            // A failed test may leave a daemon that does not answer.
            let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap_or_default();
            for volume in listed["volumes"].as_array().into_iter().flatten() {
                if let (false, Some(name)) = (volume["device"].is_null(), volume["name"].as_str()) {
                    self.try_blkseal(&["close", name]);
                }
            }
            self.end_daemon("TERM");
        }
    }
}

/// A volume of a host.
pub struct Volume<'a> {
    host: &'a Host,
    pub name: String,
    pub backing: String,
    pub header: Option<String>,
}

impl Volume<'_> {
    /// Opens the volume with further `options` of `open` and gives its stable name.
    pub fn open(&self, options: &[&str]) -> PathBuf {
        self.host.blkseal(&[&["open", &self.name], options].concat());
        self.link()
    }

    /// The volume's stable name.
    pub fn link(&self) -> PathBuf {
        self.host.dev_dir.join(&self.name)
    }

    /// The kernel's name of the open device: `ublkbN`.
    pub fn kernel_name(&self) -> String {
        let node = fs::canonicalize(self.link()).unwrap();
        node.file_name().unwrap().to_str().unwrap().to_owned()
    }

    /// Closes the volume.
    pub fn close(&self) {
        // udev may look at a device for a moment after somebody wrote to it.
        super::shell::run("udevadm settle");
        self.host.blkseal(&["close", &self.name]);
        assert!(self.link().symlink_metadata().is_err(), "{} is left behind", self.link().display());
        assert!(
            !self.host.log().contains("does not end"),
            "the worker had to be killed: {}",
            self.host.log()
        );
    }

    /// `blkseal status --json`.
    pub fn status(&self) -> serde_json::Value {
        self.host.json(&["status", &self.name])
    }

    /// Process id of the volume's worker.
    pub fn worker_pid(&self) -> u32 {
        u32::try_from(self.status()["device"]["pid"].as_u64().unwrap()).unwrap()
    }

    /// Gives the volume the recovery passphrase [`PASSPHRASE`].
    pub fn add_recovery(&self) {
        self.host.blkseal(&["recovery", "add", &self.name, "--key-file", &self.host.path("passphrase")]);
    }

    /// The arguments by which cryptsetup finds header and data.
    fn luks(&self) -> String {
        match &self.header {
            Some(header) => format!("--header {header} {}", self.backing),
            None => self.backing.clone(),
        }
    }

    /// Opens the volume with stock cryptsetup and the recovery passphrase, hands its dm-crypt device to `user`, and
    /// closes it.
    pub fn with_dm_crypt<R>(&self, user: impl FnOnce(&Path) -> R) -> R {
        let name = format!("vmtest-{}", self.name);
        let key = self.host.path("passphrase");
        super::run(&format!("cryptsetup open --type luks2 --key-file {key} {} {name}", self.luks()));
        let result = user(&Path::new("/dev/mapper").join(&name));
        super::run("udevadm settle");
        super::run(&format!("cryptsetup close {name}"));
        result
    }

    /// The DEK, as stock cryptsetup gets it out with the recovery passphrase.
    pub fn dek(&self) -> Vec<u8> {
        self.host.dek_of(self.header.as_ref().unwrap_or(&self.backing))
    }
}

/// Whether this kernel lets several threads share a queue: since Linux 6.16.
pub fn shares_queues() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.trim().parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(16))
}
