//! The daemon: holds KEKs, makes, opens and closes volumes, and supervises their workers.
//!
//! | file | what it holds |
//! |---|---|
//! | `options` | where everything is kept |
//! | `service` | the calls that it answers |
//! | `authorise`, `privilege`, `roles` | who may call what: the rules, what they ask for, and `roles.toml` |
//! | `providers`, `volumes`, `devices`, `rekey`, `adopt` | what the calls do |
//! | `learn`, `forget` | how this host comes to know a volume, and where it is; and how it ends with it |
//! | `key_servers`, `provider_set`, `keks` | the same for KMIP providers, and for KEKs |
//! | `looks` | questions to disks and workers that may hang, without waiting for them |
//! | `headers` | volumes' headers, looked at through those |
//! | `ages` | KEKs that get too old to be kept |
//! | `certificates` | this host's certificates, which are told of before they end |
//! | `supervise` | workers that died are replaced, workers that an earlier daemon started are adopted |
//! | `worker`, `process` | a worker as seen from here |
//! | `claimed` | a volume's backing as the daemon holds it |
//! | `records` | what is kept of a device for a later daemon |
//! | `waiting` | volumes that wait for their KEK |
//! | `turns` | one command at a time on a volume |
//! | `wrapping` | no KEK is destroyed, and no provider removed, under a command that wraps by it |
//! | `links` | `/dev/blkseal/NAME` |
//! | `announced` | what udev was told of devices, removed with them |
//! | `flush` | flushing what may hang |
//! | `events` | a record of each change and refusal |
//! | `event_log` | these records on disk: a bounded number of files of bounded size |
//! | `history` | these records for who asks |

mod adopt;
mod ages;
mod announced;
mod authorise;
mod certificates;
mod claimed;
mod devices;
mod event_log;
mod events;
mod flush;
mod forget;
mod headers;
mod history;
mod keks;
mod key_servers;
mod learn;
mod links;
mod looks;
mod options;
mod privilege;
mod process;
mod provider_set;
mod providers;
mod records;
mod rekey;
mod roles;
mod service;
mod supervise;
mod turns;
mod volumes;
mod waiting;
mod worker;
mod wrapping;

#[cfg(test)]
mod tests;

pub use options::Options;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;
use sd_notify::NotifyState;
use ublk_targets::device::{self, Driver, Kernel};
use ublk_targets::secret::process as own_process;
use uuid::Uuid;

use crate::control::worker::Report;
use crate::control::{self, Client, Failure, FailureKind};
use crate::logging;
use crate::luks::{self, Place};
use crate::name::Name;
use crate::provider::kmip::Observer;
use crate::provider::native::KdfCost;
use crate::{capabilities, provider, seccomp, volume};
use ages::Ages;
use devices::Device;
use event_log::Bounds;
use events::{Action, Recorder};
use headers::Looked;
use looks::Looks;
use process::Process;
use roles::Roles;
use turns::Turns;
use waiting::{Waiting, Wish};
use wrapping::Wrapping;

/// How long commands under way may take to end when the daemon is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Everybody may connect, for `roles.toml` says who may do what.
const SOCKET_MODE: u32 = 0o666;

/// What ublk's control commands (`SYS_ADMIN`), the I/O flusher (`SYS_RESOURCE`), locked memory (`IPC_LOCK`), giving up the
/// rest (`SETPCAP`), other users' backings (`DAC_*`), the search for a device's users (`SYS_PTRACE`) and ending workers (`KILL`)
/// take. The same as in `systemd/blkseald.service`.
const KEPT: [Capability; 8] = [
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_RESOURCE,
    Capability::CAP_IPC_LOCK,
    Capability::CAP_SETPCAP,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_KILL,
];

/// How a worker is started; tests have their own way, without ublk.
type StartWorker = Box<dyn Fn(worker::Start<'_>) -> Result<(Report, Process), Failure> + Send + Sync>;

/// What the daemon knows and holds. One value serves all connections.
struct Daemon {
    options: Options,
    kdf_cost: KdfCost,
    roles: Roles,
    recorder: Arc<Recorder>,
    ages: Arc<Ages>,
    /// Is told what happens with key servers.
    observer: Observer,
    providers: provider::Registry,
    volumes: volume::Registry,
    devices: Mutex<BTreeMap<Name, Device>>,
    /// Headers as they were when somebody looked at them last.
    headers: Looks<Place, Looked>,
    /// The open volumes whose headers are gone, which was told.
    lost_headers: Mutex<BTreeSet<Uuid>>,
    /// What workers say of themselves, by their sockets.
    reports: Looks<PathBuf, Option<Report>>,
    /// The volumes without a device that are to get one.
    wishes: Mutex<BTreeMap<Name, Wish>>,
    waiting: Waiting,
    start_worker: StartWorker,
    /// ublk's driver; tests have their own.
    driver: Arc<dyn Driver>,
    turns: Turns,
    wrapping: Wrapping,
}

impl Daemon {
    fn new(options: Options, kdf_cost: KdfCost) -> Result<Self, Failure> {
        let recorder = Arc::new(Recorder::open(options.events_dir(), Bounds::default())?);
        let ages = Arc::default();
        let observer = key_servers::observer(&recorder, &ages);
        Ok(Self {
            roles: Roles::load(options.roles_file()),
            providers: provider::Registry::load(&options.state_dir, &observer)?,
            recorder,
            ages,
            observer,
            volumes: volume::Registry::load(&options.state_dir)?,
            devices: Mutex::default(),
            headers: headers::looks(headers::LOOK_LIMIT, luks::look),
            lost_headers: Mutex::default(),
            reports: Looks::new(headers::LOOK_LIMIT, |socket: &PathBuf| {
                worker::ask(socket).ok().map(|(report, _)| report)
            }),
            wishes: Mutex::default(),
            waiting: Waiting::default(),
            start_worker: Box::new(worker::start),
            driver: Arc::new(Kernel::default()),
            turns: Turns::default(),
            wrapping: Wrapping::default(),
            kdf_cost,
            options,
        })
    }

    // A panic while one of these is held leaves it as it was: each change is one assignment at its end.

    /// Nobody waits in there but who changes it.
    fn providers(&self) -> &provider::Registry {
        &self.providers
    }

    /// The volumes that this host knows now.
    fn volumes(&self) -> Arc<volume::KnownVolumes> {
        self.volumes.known()
    }

    fn devices(&self) -> MutexGuard<'_, BTreeMap<Name, Device>> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wishes(&self) -> MutexGuard<'_, BTreeMap<Name, Wish>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the daemon until it is told to stop (SIGTERM or SIGINT). Workers stay.
pub fn run(options: &Options) -> Result<(), Failure> {
    logging::start();
    check_host()?;
    let options = options.prepared()?;
    protect_memory()?;
    give_up_privileges()?;
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().map_err(|error| system("block signals", error.into()))?;
    let _only = lock(&options)?;
    let socket = options.socket();
    let daemon = Arc::new(Daemon::new(options, KdfCost::DEFAULT)?);
    let listener = control::bind(&socket, SOCKET_MODE).map_err(|error| {
        Failure::new(FailureKind::System, format!("cannot listen at {}: {error}", socket.display()))
    })?;
    daemon.take_over();
    daemon.watch_headers();
    let service = Arc::clone(&daemon);
    std::thread::spawn(move || control::serve(&service, &listener));
    log::info!("blkseal {} listens at {}", env!("CARGO_PKG_VERSION"), socket.display());
    daemon.recorder.record(&Action::own("daemon start"), &Ok(()));
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    feed_watchdog(&daemon);
    let signal = signals.wait().map_err(|error| system("wait for signals", error.into()))?;
    log::info!("stopping on {signal}; open volumes stay open");
    notify(&[NotifyState::Stopping]);
    if !daemon.turns.wait_for_none(STOP_LIMIT) {
        log::warn!("stopping although a command is still under way");
    }
    daemon.lock_providers();
    daemon.recorder.record(&Action::own("daemon stop"), &Ok(()));
    daemon.recorder.finish();
    if let Err(error) = std::fs::remove_file(&socket) {
        log::warn!("cannot remove {}: {error}", socket.display());
    }
    Ok(())
}

fn check_host() -> Result<(), Failure> {
    if !geteuid().is_root() {
        let message = "the daemon makes block devices, which only root may do";
        return Err(Failure::new(FailureKind::NotPermitted, message).hint("run it as root"));
    }
    Ok(device::check_available()?)
}

/// Before the first thread starts, for threads are what the one that starts them is.
fn protect_memory() -> Result<(), Failure> {
    // It replaces workers, below whose devices memory may have to be written back to before anybody gets some.
    own_process::set_io_flusher().map_err(|error| system("be an I/O flusher", error))?;
    own_process::forbid_dumps().map_err(|error| system("forbid core dumps", error))?;
    own_process::lock_all_memory().map_err(|error| {
        system("lock memory", error)
            .hint("raise the limit: LimitMEMLOCK=infinity in the unit, or 'ulimit -l unlimited' in the shell")
    })
}

fn give_up_privileges() -> Result<(), Failure> {
    capabilities::keep_only(&KEPT).map_err(|error| Failure::from_error(FailureKind::System, &error))?;
    seccomp::refuse_needless().map_err(|error| Failure::from_error(FailureKind::System, &error))
}

/// One daemon a run directory: two would each take the other's workers for dead.
fn lock(options: &Options) -> Result<Flock<File>, Failure> {
    let path = options.run_dir.join("daemon.lock");
    let file = File::create(&path).map_err(|error| system(&format!("create {}", path.display()), error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            Failure::new(FailureKind::Busy, format!("another daemon uses {}", options.run_dir.display()))
                .hint("stop it, or choose another place with --run-dir")
        }
        error => system(&format!("lock {}", path.display()), error.into()),
    })
}

/// Tells systemd, at the interval that it asks for, that commands are still answered: only after a call over the daemon's
/// own socket was, and once the locks that calls take were free.
fn feed_watchdog(daemon: &Arc<Daemon>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let (daemon, socket) = (Arc::clone(daemon), daemon.options.socket());
    std::thread::spawn(move || {
        loop {
            match Client::probe(&socket, interval / 3) {
                Ok(()) => {
                    drop(daemon.volumes());
                    let open = daemon.devices().len();
                    let status = format!("serving; devices: {open}");
                    notify(&[NotifyState::Watchdog, NotifyState::Status(&status)]);
                }
                Err(failure) => log::error!("no call to the daemon itself is answered: {failure}"),
            }
            std::thread::sleep(interval / 3);
        }
    });
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("cannot notify the service manager: {error}");
    }
}

fn system(action: &str, error: io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("cannot {action}: {error}"))
}
