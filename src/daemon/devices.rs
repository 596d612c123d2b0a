//! Open and close: from a volume to its device and back.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use ublk_targets::cipher::{CpuPath, SectorSize};
use ublk_targets::device::{self, Layout};

use super::Daemon;
use super::authorise::Caller;
use super::events::Action;
use super::flush;
use super::links;
use super::process::Process;
use super::volumes::{place, tell};
use crate::atomic_file;
use crate::control::worker::{Job, Report};
use crate::control::{DeviceOptions, Failure, FailureKind, Nothing, Open, OpenTarget, TargetKind, Volume};
use crate::luks::{Header, Placement};
use crate::name::Name;
use crate::volume::{self, State, Unverified, VolumeError};

/// How long a worker may take to end when its device was stopped.
const END_LIMIT: Duration = Duration::from_secs(30);
/// How long what was written to a device may take to reach its backing when it is closed.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);

/// An open device: [`State::Live`] or [`State::Quiesced`].
#[derive(Clone)]
pub(super) struct Device {
    /// What its worker said when it began to serve.
    pub report: Report,
    /// The worker; none where it ended before this daemon started.
    pub process: Option<Arc<Process>>,
    /// Whether it serves.
    pub state: State,
    /// How often in a row its worker ended soon after it had started.
    pub early_deaths: u32,
}

impl Daemon {
    pub(super) fn open(
        self: &Arc<Self>,
        call: &Open,
        caller: &Caller,
        action: &mut Action,
    ) -> Result<Volume, Failure> {
        let name = self.volume_to_open(call, caller)?;
        let _turn = self.turns.take(&name);
        let open = self.devices().get(&name).cloned();
        if let Some(device) = open {
            return self.open_again(&name, &device);
        }
        match self.open_now(&name, &call.options, action) {
            Err(why) if why.kind == FailureKind::Locked && call.keep_trying.unwrap_or(true) => {
                Err(self.open_later(&name, &call.options, &why)?)
            }
            Err(failure) => Err(failure),
            Ok(header) => {
                self.forget_wish(&name);
                let mut volume = self.volume(&name);
                // What the header's repair was is told once, by who saw it.
                volume.notice = self.notice(&header);
                Ok(volume)
            }
        }
    }

    /// Starts the device of a volume that has none. The caller has the volume's turn.
    pub(super) fn open_now(
        self: &Arc<Self>,
        name: &Name,
        options: &DeviceOptions,
        action: &mut Action,
    ) -> Result<Header, Failure> {
        let header = self.header_of(name)?;
        tell(action, name, &header);
        let job = self.crypt_job(name, &header, options)?;
        let dek = self.unwrap(name, &header)?;
        self.start(job, Some(dek))?;
        self.note_verified(&header);
        Ok(header)
    }

    /// A live volume is not opened twice; a quiesced one gets a new worker.
    fn open_again(self: &Arc<Self>, name: &Name, device: &Device) -> Result<Volume, Failure> {
        if device.state == State::Live {
            let message = format!("volume {name} is open already, as {}", device.report.node.display());
            return Err(Failure::new(FailureKind::Busy, message));
        }
        self.replace_worker(name)?;
        Ok(self.volume(name))
    }

    pub(super) fn open_target(self: &Arc<Self>, call: &OpenTarget) -> Result<Volume, Failure> {
        let _turn = self.turns.take(&call.name);
        if self.name_of(call.name.as_str()).is_some() {
            let message = format!("the name {} is taken", call.name);
            return Err(Failure::new(FailureKind::Exists, message).hint("choose another name"));
        }
        let sector_size = SectorSize::try_from(call.sector_size.unwrap_or(4096))?;
        let size = match (call.target, &call.backing, call.size) {
            (TargetKind::Null, None, Some(size)) => size,
            (TargetKind::Plain, Some(backing), None) => size_of(backing)?,
            (TargetKind::Null, ..) => return Err(invalid("a null device takes a size and no backing")),
            (TargetKind::Plain, ..) => return Err(invalid("a plain device takes a backing and no size")),
            (TargetKind::Crypt, ..) => return Err(invalid("an encrypted device is opened by its volume")),
        };
        let bytes = sector_size.bytes() as u64;
        if size < bytes {
            return Err(invalid(&format!("a device of {size} bytes has no sector of {bytes}")));
        }
        if let Some(backing) = call.backing.as_ref().filter(|_| !(call.force || call.options.read_only)) {
            self.check_is_no_known_volumes(&place(backing, None)?).map_err(|failure| {
                failure.hint(
                    "writes destroy that volume: open it with --read-only, or with --force if that is meant",
                )
            })?;
        }
        let options = &call.options;
        let mut job = self.job(&call.name, call.target, options)?;
        job.backing.clone_from(&call.backing);
        job.size = size - size % bytes;
        job.sector_size = u32::from(sector_size);
        job.discards = options.allow_discards;
        self.start(job, None)?;
        Ok(self.volume(&call.name))
    }

    pub(super) fn close(&self, text: &str, action: &mut Action) -> Result<Nothing, Failure> {
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        let _turn = self.turns.take(&name);
        let Some(device) = self.devices().get(&name).cloned() else {
            if self.forget_wish(&name) {
                return Ok(Nothing {});
            }
            return Err(Failure::new(FailureKind::NotFound, format!("volume {name} is not open")));
        };
        *action = Action { actor: action.actor, ..self.action_on(name.as_str(), action.verb) };
        let claim = volume::claim_unused(&name, &device.report.node)?;
        let flushed = match device.state {
            State::Live => flush::within(FLUSH_LIMIT, &claim),
            // Nobody is there who could write anything out.
            _ => Ok(()),
        };
        if matches!(&flushed, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
            let message =
                format!("volume {name} stays open: what was written to it does not reach its backing");
            return Err(
                Failure::new(FailureKind::Io, message).hint("close it once the backing answers again")
            );
        }
        self.end(&device, Some(claim))?;
        flushed.map(|()| Nothing {}).map_err(|error| {
            let message = format!("volume {name} is closed, but its last writes may be lost: {error}");
            Failure::new(FailureKind::Io, message).hint("check the backing, then what is on the volume")
        })
    }

    /// Stops a device, waits for its worker and forgets both.
    fn end(&self, device: &Device, claim: Option<File>) -> Result<(), Failure> {
        let id = device.report.device_id;
        match (&device.state, &device.process) {
            (State::Live, Some(process)) => {
                device::stop(id)?;
                drop(claim); // a device is deleted when nobody has it open
                if !process.wait(Some(END_LIMIT)) {
                    log::warn!("the worker of volume {} does not end; killing it", device.report.job.name);
                    process.kill();
                    process.wait(Some(END_LIMIT));
                }
            }
            _ => drop(claim),
        }
        if device::list().contains(&id) {
            device::delete(id)?;
        }
        self.forget(device);
        Ok(())
    }

    /// Removes what the daemon keeps of a device that is gone.
    pub(super) fn forget(&self, device: &Device) {
        let name = &device.report.job.name;
        links::remove(&self.options.link(name), &device.report.node);
        remove_file(&self.options.worker_record(name));
        remove_file(&device.report.job.socket);
        self.devices().remove(name);
    }

    /// Starts a worker on `job` and enters its device.
    fn start(self: &Arc<Self>, job: Job, dek: Option<Unverified<'_>>) -> Result<(), Failure> {
        let (report, process) = (self.start_worker)(job, None, dek)?;
        let device = Device { report, process: Some(Arc::new(process)), state: State::Live, early_deaths: 0 };
        let kept = self.keep(&device);
        if kept.is_err() {
            self.end(&device, None)?;
        }
        kept.map(|()| self.watch(&device.report.job.name))
    }

    /// Enters a device: in the table, which cannot fail, then on disk for a later daemon and under its stable name.
    pub(super) fn keep(&self, device: &Device) -> Result<(), Failure> {
        let name = &device.report.job.name;
        let record = json!(device.report).to_string();
        let failed = |path: &Path, error: io::Error| {
            Failure::new(FailureKind::System, format!("cannot make {}: {error}", path.display()))
        };
        let (path, link) = (self.options.worker_record(name), self.options.link(name));
        self.devices().insert(name.clone(), device.clone());
        atomic_file::replace(&path, record.as_bytes()).map_err(|error| failed(&path, error))?;
        links::make(&link, &device.report.node).map_err(|error| failed(&link, error))
    }

    fn crypt_job(&self, name: &Name, header: &Header, options: &DeviceOptions) -> Result<Job, Failure> {
        let mut job = self.job(name, TargetKind::Crypt, options)?;
        job.uuid = Some(header.uuid);
        job.backing = Some(header.place.backing.clone());
        job.header = match &header.place.header {
            Placement::Attached => None,
            Placement::Detached(path) => Some(path.clone()),
        };
        job.data_offset = header.data_offset;
        job.size = header.data_length;
        job.sector_size = header.sector_size;
        job.discards = options.allow_discards || header.allow_discards;
        Ok(job)
    }

    /// A job with what its options say, checked, and nothing about its backing.
    fn job(&self, name: &Name, target: TargetKind, options: &DeviceOptions) -> Result<Job, Failure> {
        let default = Layout::default();
        let layout = Layout {
            queues: options.queues.unwrap_or(default.queues),
            threads: options.threads.unwrap_or(default.threads),
            depth: options.depth.unwrap_or(default.depth),
            max_io: options.max_io_bytes.unwrap_or(default.max_io),
            spin_us: options.spin_us.unwrap_or(default.spin_us),
        };
        layout.check()?;
        if let Some(path) = &options.cpu_path {
            path.parse::<CpuPath>()?;
        }
        Ok(Job {
            name: name.clone(),
            uuid: None,
            target,
            backing: None,
            header: None,
            data_offset: 0,
            size: 0,
            sector_size: 0,
            queues: layout.queues,
            threads: Some(layout.threads),
            depth: layout.depth,
            max_io_bytes: layout.max_io,
            spin_us: Some(layout.spin_us),
            discards: false,
            read_only: options.read_only,
            cpu_path: options.cpu_path.clone(),
            socket: self.options.worker_socket(name),
        })
    }
}

/// Removes a file, where it is there.
pub(super) fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::warn!("cannot remove {}: {error}", path.display());
        }
        _ => {}
    }
}

fn invalid(message: &str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, message)
}

fn size_of(path: &Path) -> Result<u64, Failure> {
    place(path, None)?;
    File::open(path)
        .and_then(|mut file| file.seek(SeekFrom::End(0)))
        .map_err(|source| VolumeError::Io { action: "open", path: path.to_owned(), source }.into())
}
