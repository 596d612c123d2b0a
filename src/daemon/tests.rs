//! A daemon on a real socket, as far as it goes without ublk.

mod adopt;
mod cluster;
mod events;
mod hung;
mod keks;
mod kept;
mod key_servers;
mod providers;
mod rekey;
mod roles;
mod stand_in;
mod supervision;
mod waiting;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use stand_in::StandIn;
use tempfile::TempDir;
use ublk_targets::secret::Secret;

use super::*;
use crate::control::{
    Availability, Client, Close, Counters, Create, DeviceOptions, GetVersion, List, Method, Open, OpenTarget,
    ProviderAdd, ProviderKind, ProviderList, ProviderLock, ProviderRemove, ProviderSetDefault,
    ProviderUnlock, RecoveryAdd, RecoveryRemove, SecretFd, Status, TargetKind, VolumeState,
};

struct Host {
    directory: TempDir,
    client: Client,
    daemon: Arc<Daemon>,
    driver: Arc<StandIn>,
}

fn secret(text: &str) -> Secret {
    let mut secret = Secret::zeroed(text.len()).unwrap();
    secret.expose_mut().copy_from_slice(text.as_bytes());
    secret
}

impl Host {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let driver = Arc::default();
        let (client, daemon) = start_daemon(directory.path(), &driver);
        Self { directory, client, daemon, driver }
    }

    fn with_provider() -> Self {
        let mut host = Self::start();
        host.add("office", None).unwrap();
        host
    }

    /// Another daemon on the same directories, as after a restart.
    fn restart(&mut self) {
        (self.client, self.daemon) = start_daemon(self.directory.path(), &self.driver);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn image(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::File::create(&path).unwrap().set_len(20 << 20).unwrap();
        path
    }

    fn call<M: Method>(&mut self, method: &M) -> Result<M::Reply, Failure> {
        self.client.call(method, &[])
    }

    fn fails<M: Method>(&mut self, method: &M, kind: FailureKind, named: &str) {
        let failure = self.call(method).err().expect(M::NAME);
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.message.contains(named), "'{failure}' does not name {named}");
    }

    fn add(&mut self, name: &str, file: Option<PathBuf>) -> Result<control::Provider, Failure> {
        let call = ProviderAdd {
            name: name.parse().unwrap(),
            kind: ProviderKind::Native,
            file,
            secret: SecretFd(0),
            make_default: false,
        };
        self.client.call(&call, &[&secret("sesame")])
    }

    fn unlock(&mut self, name: &str, text: &str) -> Result<control::Provider, Failure> {
        let call = ProviderUnlock { name: name.parse().unwrap(), secret: SecretFd(0) };
        self.client.call(&call, &[&secret(text)])
    }

    fn create(&mut self, name: &str, backing: PathBuf) -> Result<control::Volume, Failure> {
        self.call(&Create {
            name: name.parse().unwrap(),
            backing,
            header: None,
            sector_size: None,
            provider: None,
            kek_id: None,
            force: false,
            replace_header: false,
        })
    }

    fn open(&mut self, volume: &str) -> Open {
        Open {
            volume: volume.into(),
            name: None,
            header: None,
            options: DeviceOptions::default(),
            keep_trying: None,
        }
    }
}

fn options(directory: &std::path::Path) -> Options {
    let options = Options {
        socket: None,
        config_dir: directory.join("etc"),
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        dev_dir: directory.join("dev"),
    };
    options.prepared().unwrap()
}

fn start_daemon(directory: &std::path::Path, driver: &Arc<StandIn>) -> (Client, Arc<Daemon>) {
    start_daemon_with(directory, driver, |_| {})
}

/// A daemon of which `change` has changed parts.
fn start_daemon_with(
    directory: &std::path::Path,
    driver: &Arc<StandIn>,
    change: impl FnOnce(&mut Daemon),
) -> (Client, Arc<Daemon>) {
    let options = options(directory);
    let socket = options.socket();
    let _ = fs::remove_file(&socket); // a daemon of this process cannot be stopped, but forgotten
    let listener: UnixListener = control::bind(&socket, SOCKET_MODE).unwrap();
    let daemon = Daemon::new(options, KdfCost::new(8, 1, 1).unwrap()).unwrap();
    // A loaded machine may take its time.
    let headers = headers::looks(Duration::from_secs(60), luks::look);
    let starting = Arc::clone(driver);
    let start_worker: StartWorker = Box::new(move |start| starting.start_worker(start));
    let mut daemon = Daemon { start_worker, driver: driver.clone(), headers, ..daemon };
    change(&mut daemon);
    let daemon = Arc::new(daemon);
    daemon.take_over();
    let serving = Arc::clone(&daemon);
    std::thread::spawn(move || control::serve(&serving, &listener));
    (Client::connect(&socket).unwrap(), daemon)
}

#[test]
fn providers_live_through_add_lock_unlock_restart_and_remove() {
    let mut host = Host::start();
    assert_eq!(host.call(&GetVersion {}).unwrap().version, env!("CARGO_PKG_VERSION"));
    let added = host.add("office", None).unwrap();
    assert!(added.is_default && added.availability == Availability::Ready && added.kek_id.is_some());
    assert!(added.file.unwrap().starts_with(host.path("state")));
    assert!(!host.add("spare", Some(host.path("spare.keys"))).unwrap().is_default);
    assert!(host.path("spare.keys").exists());

    let name = || "office".parse().unwrap();
    assert_eq!(host.call(&ProviderLock { name: name() }).unwrap().availability, Availability::Locked);
    let wrong = host.unlock("office", "not sesame").unwrap_err();
    assert_eq!(wrong.kind, FailureKind::WrongKey);
    assert!(wrong.message.contains("office"), "{wrong}");
    assert_eq!(host.unlock("office", "sesame").unwrap().availability, Availability::Ready);

    host.call(&ProviderSetDefault { name: "spare".parse().unwrap() }).unwrap();
    host.restart();
    let providers = host.call(&ProviderList {}).unwrap().providers;
    let seen: Vec<_> = providers.iter().map(|p| (p.name.as_str(), p.is_default, p.availability)).collect();
    assert_eq!(seen, [("office", false, Availability::Locked), ("spare", true, Availability::Locked)]);

    host.call(&ProviderRemove { name: name() }).unwrap();
    host.fails(&ProviderRemove { name: name() }, FailureKind::NotFound, "office");
    assert!(host.path("state/office.keys").exists(), "a key file is never deleted");
    assert_eq!(host.call(&ProviderList {}).unwrap().providers.len(), 1);
}

#[test]
fn provider_mistakes_are_refused() {
    let mut host = Host::with_provider();
    assert_eq!(host.add("office", None).unwrap_err().kind, FailureKind::Exists);
    assert_eq!(host.add("p", Some("relative".into())).unwrap_err().kind, FailureKind::InvalidArgument);
    assert_eq!(host.unlock("nobody", "sesame").unwrap_err().kind, FailureKind::NotFound);
    host.fails(&ProviderSetDefault { name: "nobody".parse().unwrap() }, FailureKind::NotFound, "nobody");
    let call = ProviderUnlock { name: "office".parse().unwrap(), secret: SecretFd(0) };
    host.fails(&call, FailureKind::InvalidArgument, "descriptor 0");
}

#[test]
fn a_created_volume_is_known_by_all_its_names_and_survives_a_restart() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    let made = host.create("vol", backing.clone()).unwrap();
    assert_eq!((made.state, made.size, made.sector_size), (VolumeState::Unlocked, Some(4 << 20), Some(4096)));
    assert_eq!((made.provider.as_deref(), made.key_bits), (Some("office"), Some(512)));
    assert!(made.device.is_none() && made.problem.is_none());

    for text in ["vol".to_owned(), made.uuid.unwrap().to_string(), backing.display().to_string()] {
        assert_eq!(host.call(&Status { volume: text }).unwrap(), made);
    }
    host.restart();
    let seen = host.call(&List {}).unwrap().volumes;
    assert_eq!((seen.len(), seen[0].state), (1, VolumeState::Locked));
    assert_eq!(seen[0].problem.as_deref(), Some("key provider office is locked"));
    let open = host.open("vol");
    host.fails(&open, FailureKind::Waiting, "office");
    host.fails(&ProviderRemove { name: "office".parse().unwrap() }, FailureKind::Busy, "vol");
    host.call(&Close { volume: "vol".into(), force: false }).unwrap();
    host.fails(&Close { volume: "vol".into(), force: false }, FailureKind::NotFound, "vol");

    fs::remove_file(&backing).unwrap();
    let gone = host.call(&Status { volume: "vol".into() }).unwrap();
    assert_eq!(gone.uuid, made.uuid);
    assert!(gone.problem.unwrap().contains("disk does not exist"));
}

#[test]
fn a_volume_from_elsewhere_gets_its_label_as_name_or_the_one_that_is_given() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    host.create("travels", backing.clone()).unwrap();
    fs::remove_file(host.path("state/volumes.toml")).unwrap();
    host.restart();
    host.fails(&Status { volume: "travels".into() }, FailureKind::NotFound, "travels");
    let mut open = host.open(backing.to_str().unwrap());
    // It is learnt before it is seen to be locked.
    host.fails(&open, FailureKind::Waiting, "office");
    assert_eq!(host.call(&Status { volume: "travels".into() }).unwrap().backing, Some(backing));
    open.name = Some("other".parse().unwrap());
    host.fails(&open, FailureKind::InvalidArgument, "travels");
    let nothing = host.open("/nowhere/disk");
    host.fails(&nothing, FailureKind::NoInput, "/nowhere/disk");
}

#[test]
fn another_volume_on_a_known_backing_is_noticed() {
    let mut host = Host::with_provider();
    let (mine, theirs) = (host.image("mine"), host.image("theirs"));
    host.create("mine", mine.clone()).unwrap();
    host.create("theirs", theirs.clone()).unwrap();
    fs::copy(&theirs, &mine).unwrap();
    let open = host.open("mine");
    host.fails(&open, FailureKind::BadData, "mine");
    assert!(host.call(&Status { volume: "mine".into() }).unwrap().problem.is_some());
}

#[test]
fn recovery_passphrases_come_and_go() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    let add = RecoveryAdd { volume: "vol".into(), secret: SecretFd(0) };
    let slot = host.client.call(&add, &[&secret("rescue")]).unwrap().keyslot;
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().recovery_keyslots, [slot]);
    let absent = RecoveryRemove { volume: "vol".into(), keyslot: Some(slot + 1), force: false };
    host.fails(&absent, FailureKind::NotFound, "disk");
    let removed = host.call(&RecoveryRemove { volume: "vol".into(), keyslot: None, force: false }).unwrap();
    assert_eq!(removed.keyslots, [slot]);
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    let locked = host.client.call(&add, &[&secret("rescue")]).unwrap_err();
    assert_eq!(locked.kind, FailureKind::Locked);
}

#[test]
fn what_cannot_be_opened_is_refused_before_a_worker_starts() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    let options = |change: fn(&mut DeviceOptions)| {
        let mut options = DeviceOptions::default();
        change(&mut options);
        options
    };
    let cases = [
        (options(|o| o.queues = Some(0)), "queues"),
        (options(|o| o.depth = Some(5000)), "depth"),
        (options(|o| o.max_io_bytes = Some(5000)), "largest request"),
        (options(|o| o.cpu_path = Some("abacus".into())), "abacus"),
    ];
    for (options, named) in cases {
        let open = Open { options, ..host.open("vol") };
        host.fails(&open, FailureKind::InvalidArgument, named);
    }
    let target = |target, backing: Option<&str>, size, sector_size| OpenTarget {
        name: "t".parse().unwrap(),
        target,
        backing: backing.map(PathBuf::from),
        size,
        sector_size,
        options: DeviceOptions::default(),
        force: false,
    };
    let invalid = FailureKind::InvalidArgument;
    host.fails(&target(TargetKind::Null, None, None, None), invalid, "null");
    host.fails(&target(TargetKind::Null, None, Some(100), None), invalid, "100 bytes");
    host.fails(&target(TargetKind::Null, None, Some(4096), Some(1000)), invalid, "1000");
    host.fails(&target(TargetKind::Plain, None, None, None), invalid, "plain");
    host.fails(&target(TargetKind::Plain, Some("/nowhere"), None, None), FailureKind::NoInput, "/nowhere");
    host.fails(&target(TargetKind::Crypt, None, None, None), invalid, "volume");
}

#[test]
fn what_an_earlier_daemon_left_and_is_gone_is_cleaned_up() {
    let mut host = Host::start();
    let (record, socket) = (host.path("run/workers/gone.json"), host.path("run/workers/gone.sock"));
    fs::write(&record, "{}").unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    std::os::unix::fs::symlink("/dev/ublkb7", host.path("dev/gone")).unwrap();
    host.restart();
    assert!(!record.exists() && !socket.exists() && !host.path("dev/gone").is_symlink());
    assert!(host.call(&List {}).unwrap().volumes.is_empty());
}
