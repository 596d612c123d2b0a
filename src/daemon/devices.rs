//! Open and close: from a volume to its device and back.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ublk_targets::cipher::{CpuPath, SectorSize};
use ublk_targets::device::{Identity, Layout, Word};
use uuid::Uuid;

use super::Daemon;
use super::authorise::Caller;
use super::claimed::Claimed;
use super::events::Action;
use super::flush;
use super::process::Process;
use super::records::Record;
use super::volumes::{place, tell};
use super::worker::Start;
use super::{announced, links};
use crate::control::worker::{Job, Report};
use crate::control::{
    Close, Closed, DeviceOptions, Failure, FailureKind, Open, OpenTarget, TargetKind, Volume,
};
use crate::identity::FileId;
use crate::luks::{Header, Placement};
use crate::name::Name;
use crate::volume::{self, Known, State, Unverified, VolumeError};

/// How often a device is looked at anew that somebody opens just when it is to be stopped.
const STOP_ATTEMPTS: u32 = 10;
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
    /// Its backing; none where it has none, or where that is in the hands of a worker that could not be asked for it yet, or was
    /// in those of one that is gone.
    pub claimed: Option<Claimed>,
    /// What its backing is, as far as that is known.
    pub backing_id: Option<FileId>,
}

impl Device {
    /// A device that `process` has just begun to serve.
    pub fn new(report: Report, process: Process, claimed: Option<Claimed>) -> Self {
        let backing_id = claimed.as_ref().map(|claimed| claimed.id);
        let process = Some(Arc::new(process));
        Self { report, process, state: State::Live, early_deaths: 0, claimed, backing_id }
    }

    /// Whether `other` is this device with the same worker.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.process, &other.process) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// What the driver knows the device by. The server is compared where it is alive, and where an older release gave all devices
    /// the same word.
    pub fn identity(&self) -> Identity {
        let Report { job, device_id, pid, .. } = &self.report;
        let has_server = job.word.is_none() || self.state == State::Live;
        Identity { id: *device_id, word: job.word(), server: has_server.then_some(*pid) }
    }
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
        let place = self.volumes().get(name).map(Known::place);
        let place = place.ok_or_else(|| VolumeError::Unknown(name.to_string()))?;
        let claimed = Claimed::take(&place.backing, options.read_only)?;
        let header = self.header_through(name, &claimed)?;
        tell(action, name, &header);
        let job = self.crypt_job(name, &header, options)?;
        let dek = self.unwrap(name, &header)?;
        self.start(job, Some(dek), Some(claimed))?;
        self.note_verified(&header);
        Ok(header)
    }

    /// A live volume is not opened twice; a quiesced one gets a new worker.
    fn open_again(self: &Arc<Self>, name: &Name, device: &Device) -> Result<Volume, Failure> {
        if device.state == State::Live {
            let message = format!("volume {name} is open already, as {}", device.report.node.display());
            return Err(Failure::new(FailureKind::Busy, message));
        }
        if let Some(device) = self.devices().get_mut(name) {
            device.early_deaths = 0; // somebody looks after it
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
        let (size, claimed) = match (call.target, &call.backing, call.size) {
            (TargetKind::Null, None, Some(size)) => (size, None),
            (TargetKind::Plain, Some(backing), None) => {
                place(backing, None)?;
                let claimed = Claimed::take(backing, call.options.read_only)?;
                (size_of(&claimed.file, backing)?, Some(claimed))
            }
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
        self.start(job, None, claimed)?;
        Ok(self.volume(&call.name))
    }

    pub(super) fn close(&self, call: &Close, action: &mut Action) -> Result<Closed, Failure> {
        let name = self.name_of(&call.volume).ok_or_else(|| VolumeError::Unknown(call.volume.clone()))?;
        let _turn = self.turns.take(&name);
        let Some(device) = self.devices().get(&name).cloned() else {
            if self.forget_wish(&name) {
                return Ok(Closed::default());
            }
            return Err(Failure::new(FailureKind::NotFound, format!("volume {name} is not open")));
        };
        *action = Action { actor: action.actor, ..self.action_on(name.as_str(), action.verb) };
        if device.state != State::Live {
            return self.close_unserved(&name, &device, call.force);
        }
        if !call.force {
            self.check_has_header(&name)?;
        }
        let flushed = self.flush_and_stop(&name, &device)?;
        self.end(&device, None)?;
        flushed.map(|()| Closed::default()).map_err(|error| {
            let message = format!("volume {name} is closed, but its last writes may be lost: {error}");
            Failure::new(FailureKind::Io, message).hint("check the backing, then what is on the volume")
        })
    }

    /// Stops the device of a live volume unless somebody uses it, once what was written is flushed; says how that went. Whoever opens
    /// it between the look and the stop keeps it where the driver sees that.
    fn flush_and_stop(&self, name: &Name, device: &Device) -> Result<io::Result<()>, Failure> {
        let identity = device.identity();
        for _ in 0..STOP_ATTEMPTS {
            let claim = volume::claim_unused(name, &device.report.node)?;
            let flushed = flush::within(FLUSH_LIMIT, &claim);
            if matches!(&flushed, Err(error) if error.kind() == io::ErrorKind::TimedOut) {
                let message =
                    format!("volume {name} stays open: what was written to it does not reach its backing");
                let hint = "close it once the backing answers again";
                return Err(Failure::new(FailureKind::Io, message).hint(hint));
            }
            if !self.driver.sees_users() {
                identity.stop(&*self.driver)?;
                return Ok(flushed);
            }
            drop(claim); // it is a use of the device, too
            if identity.stop_unused(&*self.driver)? {
                return Ok(flushed);
            }
        }
        let by = "somebody opens it again and again".to_owned();
        Err(VolumeError::InUse { name: name.clone(), by }.into())
    }

    /// Closes a device that no worker serves, so that nothing can be written out: with errors for those who use it, where they
    /// are given up.
    fn close_unserved(&self, name: &Name, device: &Device, is_given_up: bool) -> Result<Closed, Failure> {
        let claim = match volume::claim_unused(name, &device.report.node) {
            Ok(claim) => Some(claim),
            Err(_) if is_given_up => None,
            Err(error) => {
                let hint = "no worker serves it, so that whoever uses it waits: \
                            `blkseal open` tries to have it served again, `close --force` gives them errors";
                return Err(Failure::from(error).hint(hint));
            }
        };
        self.end(device, claim)?;
        let notice = (!device.report.job.read_only).then(|| {
            format!("volume {name} was not served when it was closed: what was not written out yet is lost")
        });
        Ok(Closed { notice })
    }

    /// Stops a device, waits for its worker, deletes the device and forgets both.
    pub(super) fn end(&self, device: &Device, claim: Option<File>) -> Result<(), Failure> {
        let identity = device.identity();
        if let (State::Live, Some(process)) = (&device.state, &device.process) {
            // The claim keeps the number from being given to another device meanwhile.
            identity.stop(&*self.driver)?;
            drop(claim); // a device is deleted when nobody has it open
            if !process.wait(Some(END_LIMIT)) {
                log::warn!("the worker of volume {} does not end; killing it", device.report.job.name);
                process.kill();
                process.wait(Some(END_LIMIT));
            }
        } else {
            drop(claim);
        }
        identity.delete(&*self.driver)?;
        self.forget(device);
        Ok(())
    }

    /// Removes what the daemon keeps of a device that is gone.
    pub(super) fn forget(&self, device: &Device) {
        let name = &device.report.job.name;
        links::remove(&self.options.link(name), &device.report.node);
        remove_file(&self.options.worker_record(name));
        remove_file(&device.report.job.socket);
        announced::clean(&self.options.udev_dir());
        self.devices().remove(name);
    }

    /// Starts a worker on `job` and enters its device.
    fn start(
        self: &Arc<Self>,
        job: Job,
        dek: Option<Unverified<'_>>,
        claimed: Option<Claimed>,
    ) -> Result<(), Failure> {
        let (name, word) = (job.name.clone(), job.word());
        // Whoever comes after this daemon finds the device by its word, should both processes end now.
        self.write_record(&Record::Starting { job: Box::new(job.clone()) })?;
        let backing = claimed.as_ref().map(|claimed| Arc::clone(&claimed.file));
        let (report, process) =
            (self.start_worker)(Start { job, recover: None, dek, backing }).inspect_err(|_| {
                self.delete_by_word(word);
                remove_file(&self.options.worker_record(&name));
                announced::clean(&self.options.udev_dir());
            })?;
        let device = Device::new(report, process, claimed);
        let kept = self.keep(&device);
        if kept.is_err() {
            self.end(&device, None)?;
        }
        kept.map(|()| self.watch(&device.report.job.name))
    }

    /// Deletes the device that was made with `word`, whose server is gone, if there is one.
    pub(super) fn delete_by_word(&self, word: Word) {
        let Some(info) = self.driver.find(word) else { return };
        log::warn!("deleting ublk device {}, which a worker left behind", info.id);
        let identity = Identity { id: info.id, word, server: None };
        if let Err(error) = identity.delete(&*self.driver) {
            log::warn!("{}", Failure::from(error));
        }
    }

    /// Enters a device: in the table, which cannot fail, then on disk for a later daemon and under its stable name.
    pub(super) fn keep(&self, device: &Device) -> Result<(), Failure> {
        let name = &device.report.job.name;
        self.devices().insert(name.clone(), device.clone());
        let report = Box::new(device.report.clone());
        self.write_record(&Record::Serving { report, backing_id: device.backing_id })?;
        let link = self.options.link(name);
        links::make(&link, &device.report.node).map_err(|error| cannot_make(&link, &error))
    }

    fn write_record(&self, record: &Record) -> Result<(), Failure> {
        let path = self.options.worker_record(record.name());
        record.write(&path).map_err(|error| cannot_make(&path, &error))
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
            partitions: options.host,
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
            host: options.host,
            udev_dir: Some(self.options.udev_dir()),
            cpu_path: options.cpu_path.clone(),
            socket: self.options.worker_socket(name),
            word: Some(random_word()),
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

/// Both halves of a random UUID, whose few fixed bits are in different places of each.
fn random_word() -> Word {
    let (one, two) = Uuid::new_v4().as_u64_pair();
    Word::new(one ^ two)
}

fn cannot_make(path: &Path, error: &io::Error) -> Failure {
    Failure::new(FailureKind::System, format!("cannot make {}: {error}", path.display()))
}

fn invalid(message: &str) -> Failure {
    Failure::new(FailureKind::InvalidArgument, message)
}

fn size_of(mut file: &File, path: &Path) -> Result<u64, Failure> {
    file.seek(SeekFrom::End(0))
        .map_err(|source| VolumeError::Io { action: "look at", path: path.to_owned(), source }.into())
}
