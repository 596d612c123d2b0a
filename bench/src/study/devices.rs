//! The devices over the backings: opened for a task, closed after it, so that each has the backing to itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;

use super::backing::{self, Backings};
use super::cells::{Settings, from_json};
use super::matrix::{DeviceKind, Pattern, Workload};
use super::{Result, StudyError, commands};

const BLKSEAL: &str = "blkseal";

/// Backings, a daemon of our own, and a volume on each backing.
pub struct Ground {
    // Dropped in this order: the daemon ends before its directories and the backings do.
    daemon: Daemon,
    backings: Backings,
    sector_size: u32,
    /// How blkseal computes AES here.
    pub cpu_path: Option<String>,
}

impl Ground {
    /// Makes everything that devices need. Volumes have their headers elsewhere, so that every device begins at the
    /// backing's first sector.
    pub fn prepare(settings: &Settings) -> Result<Self> {
        // Harmless where it is there already; where it is not to be had, opening a device says so.
        let _ = commands::run("modprobe", &["ublk_drv"]);
        let backings = Backings::prepare(settings, settings.preset.volumes())?;
        let daemon = Daemon::start()?;
        daemon.add_provider()?;
        let mut ground = Self { daemon, backings, sector_size: settings.sector_size, cpu_path: None };
        for number in 0..ground.backings.paths().len() {
            ground.create(number)?;
        }
        ground.cpu_path = ground.find_cpu_path()?;
        Ok(ground)
    }

    fn create(&self, number: usize) -> Result<String> {
        let header = self.daemon.home().join(format!("header{number}"));
        let backing = &self.backings.paths()[number];
        let sector_size = self.sector_size.to_string();
        let name = volume_name(DeviceKind::Crypt, number);
        let mut command = self.daemon.command(&["create", "--force", "--yes", "--name", &name]);
        // Whether data may be lost was decided by `backing::check`.
        commands::output(
            command.arg(backing).arg("--header").arg(header).args(["--sector-size", &sector_size]),
        )
    }

    fn find_cpu_path(&self) -> Result<Option<String>> {
        let opened = self.open(DeviceKind::Crypt, &Workload::new(Pattern::Read, 4, 1))?;
        let name = volume_name(DeviceKind::Crypt, 0);
        let status: serde_json::Value =
            from_json(&commands::output(&mut self.daemon.command(&["--json", "status", &name]))?, "blkseal")?;
        opened.close()?;
        Ok(status["device"]["cpu_path"].as_str().map(str::to_owned))
    }

    /// Opens one device a volume.
    pub fn open(&self, kind: DeviceKind, workload: &Workload) -> Result<Opened<'_>> {
        let mut opened = Opened { ground: self, kind, paths: Vec::new(), closed: false };
        for number in 0..usize::from(workload.volumes) {
            opened.paths.push(self.open_one(kind, number, workload.queues)?);
        }
        Ok(opened)
    }

    fn open_one(&self, kind: DeviceKind, number: usize, queues: Option<u16>) -> Result<PathBuf> {
        let backing = self.backings.paths()[number].as_path();
        let name = volume_name(kind, number);
        match kind {
            DeviceKind::Raw => return Ok(backing.to_owned()),
            DeviceKind::Null | DeviceKind::Plain | DeviceKind::Crypt => {
                let mut command = self.blkseal_open(kind, &name, backing)?;
                if let Some(queues) = queues {
                    command.args(["--queues", &queues.to_string()]);
                }
                commands::output(&mut command)?;
            }
            DeviceKind::DmCrypt | DeviceKind::DmCryptNoWq => {
                commands::retry(|| commands::output(&mut self.dm_crypt(kind, &name, backing)))?;
                return Ok(Path::new("/dev/mapper").join(name));
            }
        }
        Ok(self.daemon.home().join("dev").join(name))
    }

    fn blkseal_open(&self, kind: DeviceKind, name: &str, backing: &Path) -> Result<Command> {
        let sector_size = self.sector_size.to_string();
        let mut command = match kind {
            DeviceKind::Crypt => return Ok(self.daemon.command(&["open", name])),
            DeviceKind::Null => {
                let bytes = commands::run("blockdev", &["--getsize64", &backing.display().to_string()])?;
                self.daemon.command(&["study", "null", name, "--size", &bytes])
            }
            _ => {
                let mut command = self.daemon.command(&["study", "plain", "--force", name]);
                command.arg(backing);
                command
            }
        };
        command.args(["--sector-size", &sector_size]);
        Ok(command)
    }

    fn dm_crypt(&self, kind: DeviceKind, name: &str, backing: &Path) -> Command {
        let mut command = Command::new("cryptsetup");
        command.args([
            "open",
            "--batch-mode",
            "--type",
            "plain",
            "--cipher",
            "aes-xts-plain64",
            "--key-size",
            "512",
        ]);
        command.args(["--key-file", "/dev/urandom", "--sector-size", &self.sector_size.to_string()]);
        if kind == DeviceKind::DmCryptNoWq {
            command.args(["--perf-no_read_workqueue", "--perf-no_write_workqueue"]);
        }
        command.arg(backing).arg(name);
        command
    }

    fn close_one(&self, kind: DeviceKind, number: usize) -> Result<()> {
        let name = volume_name(kind, number);
        match kind {
            DeviceKind::Raw => return Ok(()),
            DeviceKind::DmCrypt | DeviceKind::DmCryptNoWq => {
                commands::retry(|| commands::run("cryptsetup", &["close", &name]))?
            }
            _ => commands::retry(|| commands::output(&mut self.daemon.command(&["close", &name])))?,
        };
        Ok(())
    }

    /// The numbers under which the kernel traces a device and what is below it; 0 for what is not there.
    pub fn traced_numbers(&self, opened: &Opened<'_>) -> Result<(u64, u64)> {
        let (above, below) = (opened.kind != DeviceKind::Raw, opened.kind != DeviceKind::Null);
        let number = |there: bool, path: &Path| if there { backing::traced_number(path) } else { Ok(0) };
        Ok((number(above, &opened.paths[0])?, number(below, &self.backings.paths()[0])?))
    }
}

fn volume_name(kind: DeviceKind, number: usize) -> String {
    format!("study-{}{number}", kind.name().replace(' ', "-"))
}

/// Devices of one kind, open.
pub struct Opened<'ground> {
    ground: &'ground Ground,
    kind: DeviceKind,
    /// Where they are.
    pub paths: Vec<PathBuf>,
    closed: bool,
}

impl Opened<'_> {
    /// Their names in /sys/class/block.
    pub fn disks(&self) -> Result<Vec<String>> {
        self.paths.iter().map(|path| backing::disk_name(path)).collect()
    }

    /// Closes them.
    pub fn close(mut self) -> Result<()> {
        self.closed = true;
        // udev looks at each device after it was written to, and has it open meanwhile.
        commands::run("udevadm", &["settle"])?;
        (0..self.paths.len()).try_for_each(|number| self.ground.close_one(self.kind, number))
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        for number in 0..if self.closed { 0 } else { self.paths.len() } {
            // Only after a failure, which is what is reported.
            let _ = self.ground.close_one(self.kind, number);
        }
    }
}

/// A daemon of our own in directories of its own.
struct Daemon {
    child: Child,
    home: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let mut command = command(home.path(), &["daemon"]);
        let log = std::fs::File::create(home.path().join("daemon.log"))?;
        // Ctrl-C is for us: the daemon is needed to close what is open.
        command.stdin(Stdio::null()).stderr(log).process_group(0);
        let child = command
            .spawn()
            .map_err(|error| StudyError::Unavailable(format!("{BLKSEAL} does not start: {error}")))?;
        let daemon = Self { child, home };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    fn wait_until_ready(&self) -> Result<()> {
        for _ in 0..150 {
            if commands::output(&mut self.command(&["list"])).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = std::fs::read_to_string(self.home().join("daemon.log")).unwrap_or_default();
        Err(StudyError::Program { program: format!("{BLKSEAL} daemon"), said })
    }

    fn add_provider(&self) -> Result<String> {
        let key_file = self.home().join("provider-key");
        commands::run("dd", &["if=/dev/urandom", &format!("of={}", key_file.display()), "bs=32", "count=1"])?;
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let mut command = self.command(&["provider", "add", "native", "study", "--key-file"]);
        commands::output(command.arg(key_file))
    }

    fn home(&self) -> &Path {
        self.home.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.home(), arguments)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = self.child.id().try_into() {
            // A daemon that is gone already needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BLKSEAL);
    command.args(arguments);
    for (variable, place) in [
        ("BLKSEAL_RUN_DIR", "run"),
        ("BLKSEAL_STATE_DIR", "state"),
        ("BLKSEAL_CONFIG_DIR", "etc"),
        ("BLKSEAL_DEV_DIR", "dev"),
        ("BLKSEAL_SOCKET", "run/daemon.sock"),
    ] {
        command.env(variable, home.join(place));
    }
    command
}
