//! Workers that ended are replaced, and workers that an earlier daemon started are adopted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ublk_targets::device::{Identity, Info, Phase};

use super::Daemon;
use super::claimed::Claimed;
use super::devices::{Device, remove_file};
use super::process::Process;
use super::records::{Record, left_behind};
use super::waiting::{FIRST_PAUSE, longer};
use super::{announced, links, worker};
use crate::control::worker::{Job, Report, old_word};
use crate::control::{Failure, FailureKind, TargetKind};
use crate::identity::FileId;
use crate::luks::{Header, Place};
use crate::name::Name;
use crate::volume::{State, VolumeError};

/// A worker that ends sooner than this has not done well.
const EARLY: Duration = Duration::from_secs(30);
/// After so many early deaths in a row a device is left quiesced for a while, for somebody to look at.
const MAX_EARLY_DEATHS: u32 = 5;
/// How long.
const REST: Duration = Duration::from_secs(60);
/// How long a worker that an earlier daemon was about to start may take to see that nobody waits for it.
const ABANDONED_LIMIT: Duration = Duration::from_secs(120);

impl Daemon {
    /// Waits, in a thread of its own, for the end of the worker that serves `name` now.
    pub(super) fn watch(self: &Arc<Self>, name: &Name) {
        let Some(process) = self.devices().get(name).and_then(|device| device.process.clone()) else {
            return;
        };
        let (daemon, name, started) = (Arc::clone(self), name.clone(), Instant::now());
        std::thread::spawn(move || {
            if process.wait(None) {
                daemon.worker_ended(&name, &process, started.elapsed());
            }
        });
    }

    fn worker_ended(self: &Arc<Self>, name: &Name, process: &Arc<Process>, age: Duration) {
        let _turn = self.turns.take(name);
        let device = self.devices().get(name).cloned();
        let is_current =
            |device: &Device| device.process.as_ref().is_some_and(|current| Arc::ptr_eq(current, process));
        let Some(device) = device.filter(is_current) else { return }; // closed meanwhile
        if self.was_stopped(&device) {
            log::warn!("the device of volume {name} was stopped by somebody else");
            self.forget(&device);
            self.recorder.record(&self.action_on(name.as_str(), "close"), &Ok(()));
            return;
        }
        let early_deaths = if age < EARLY { device.early_deaths + 1 } else { 0 };
        let reason = "its worker ended unexpectedly".to_owned();
        let ended: Result<(), _> = Err(Failure::new(FailureKind::Internal, &reason));
        self.recorder.record(&self.action_on(name.as_str(), "worker end"), &ended);
        self.set_quiesced(name, reason, early_deaths);
        if early_deaths >= MAX_EARLY_DEATHS {
            return self.rest(name);
        }
        // The event and the state tell of a failure.
        let _ = self.replace_worker(name);
    }

    /// Leaves a device whose workers do not live alone for a while.
    fn rest(self: &Arc<Self>, name: &Name) {
        let reason = format!(
            "its worker ended {MAX_EARLY_DEATHS} times in a row soon after it had started; the next one starts in {} s",
            REST.as_secs()
        );
        log::error!("volume {name} stays quiesced: {reason}; 'open' tries at once");
        let given_up: Result<(), _> = Err(Failure::new(FailureKind::Internal, &reason));
        self.recorder.record(&self.action_on(name.as_str(), "worker replace"), &given_up);
        // One more early death, and it rests again.
        self.set_quiesced(name, reason, MAX_EARLY_DEATHS - 1);
        self.retry_later(name, REST);
    }

    /// Whether the device, whose worker is gone, was stopped; if so, it is deleted.
    fn was_stopped(&self, device: &Device) -> bool {
        let identity = device.identity();
        match identity.info(&*self.driver) {
            Ok(None) => true,
            Ok(Some(Info { phase: Phase::Dead, .. })) => {
                if let Err(error) = identity.delete(&*self.driver) {
                    log::warn!("volume {}: {}", device.report.job.name, Failure::from(error));
                }
                true
            }
            Ok(Some(_)) => false,
            Err(error) => {
                log::warn!("volume {}: {}", device.report.job.name, Failure::from(error));
                false
            }
        }
    }

    fn set_quiesced(&self, name: &Name, reason: String, early_deaths: u32) {
        if let Some(device) = self.devices().get_mut(name) {
            device.state = State::Quiesced(reason);
            device.early_deaths = early_deaths;
        }
    }

    /// Has a new worker take over a quiesced device, which keeps its node and the requests that wait. Where that fails it is tried
    /// again, unless that cannot help. The caller has the volume's turn.
    pub(super) fn replace_worker(self: &Arc<Self>, name: &Name) -> Result<(), Failure> {
        let Some(device) = self.devices().get(name).cloned() else { return Ok(()) };
        let result = self.try_to_replace(&device);
        let is_old = |failure: &Failure| {
            let is_same = matches!(&device.state, State::Quiesced(reason) if *reason == failure.message);
            is_same || (failure.kind == FailureKind::Locked && self.waits_for_kek(name))
        };
        let is_news = result.as_ref().err().is_none_or(|failure| !is_old(failure));
        if is_news {
            self.recorder.record(&self.action_on(name.as_str(), "worker replace"), &result);
        }
        if let Err(failure) = &result {
            self.set_quiesced(name, failure.message.clone(), device.early_deaths);
            match failure.kind {
                FailureKind::Locked => self.wait_for_kek(name),
                _ if failure.is_final => log::error!("volume {name} stays quiesced: {failure}"),
                _ => self.retry_later(name, FIRST_PAUSE),
            }
        }
        result
    }

    fn try_to_replace(self: &Arc<Self>, device: &Device) -> Result<(), Failure> {
        let job = device.report.job.clone();
        let name = job.name.clone();
        let claimed = self.claim_again(device)?;
        let header = match (job.target, &claimed) {
            (TargetKind::Crypt, Some(claimed)) => Some(header_of(&job, claimed)?),
            _ => None,
        };
        let dek = header.as_ref().map(|header| self.unwrap(&name, header)).transpose()?;
        let backing = claimed.as_ref().map(|claimed| Arc::clone(&claimed.file));
        let recover = Some(device.report.device_id);
        let (report, process) = (self.start_worker)(worker::Start { job, recover, dek, backing })?;
        let new = Device { early_deaths: device.early_deaths, ..Device::new(report, process, claimed) };
        if let Err(failure) = self.keep(&new) {
            log::warn!("volume {name}: {failure}"); // it serves all the same
        }
        self.watch(&name);
        Ok(())
    }

    /// The claim on the backing of a device without a worker. Where it went with the last process that had it, whatever is at the
    /// backing's path is claimed, if that is what it was.
    fn claim_again(&self, device: &Device) -> Result<Option<Claimed>, Failure> {
        let job = &device.report.job;
        let (Some(path), None) = (&job.backing, &device.claimed) else { return Ok(device.claimed.clone()) };
        let claimed = Claimed::take(path, job.read_only)?;
        if device.backing_id.is_some_and(|id| id != claimed.id) {
            return Err(VolumeError::OtherFile { name: job.name.clone(), backing: path.clone() }.into());
        }
        if let Some(device) = self.devices().get_mut(&job.name) {
            device.claimed = Some(claimed.clone());
        }
        Ok(Some(claimed))
    }

    /// Takes over what an earlier daemon left: its workers, devices whose worker ended since, what it was to open, and
    /// what is stale.
    pub(super) fn take_over(self: &Arc<Self>) {
        // Side by side: a worker may take a while to answer, or not answer at all.
        std::thread::scope(|scope| {
            for name in left_behind(&self.options.workers_dir()) {
                scope.spawn(move || self.adopt_left(&name));
            }
        });
        self.delete_old_orphans();
        self.watch_age_of_keks();
        self.watch_certificates();
        self.take_over_wishes();
        announced::clean(&self.options.udev_dir());
        let devices = self.devices();
        links::clean(&self.options.dev_dir, |name| {
            name.parse::<Name>().is_ok_and(|name| devices.contains_key(&name))
        });
    }

    /// Deletes what workers of older releases left behind, which knew all devices of a daemon by one word.
    fn delete_old_orphans(&self) {
        let word = old_word(&self.options.workers_dir());
        let known: BTreeSet<u32> = self.devices().values().map(|device| device.report.device_id).collect();
        for id in self.driver.list().into_iter().filter(|id| !known.contains(id)) {
            let identity = Identity { id, word, server: None };
            match identity.info(&*self.driver) {
                Ok(Some(info)) if !info.is_served() => {
                    log::warn!("deleting ublk device {id}, which a worker left behind");
                    if let Err(error) = identity.delete(&*self.driver) {
                        log::warn!("{}", Failure::from(error));
                    }
                }
                Ok(_) => {}
                Err(error) => log::warn!("{}", Failure::from(error)),
            }
        }
    }

    fn adopt_left(self: &Arc<Self>, name: &Name) {
        match worker::ask(&self.options.worker_socket(name)) {
            Ok((report, peer)) if report.job.name == *name && peer.pid.unsigned_abs() == report.pid => {
                let backing_id = match Record::read(&self.options.worker_record(name)) {
                    Some(Record::Serving { backing_id, .. }) => backing_id,
                    _ => None,
                };
                self.adopt_worker(report, backing_id);
            }
            Ok((report, peer)) => {
                log::error!("process {} serves {} under the socket of {name}", peer.pid, report.job.name);
            }
            Err(failure) => {
                log::info!("volume {name}: {failure}");
                self.adopt_device(name);
            }
        }
    }

    fn adopt_worker(self: &Arc<Self>, report: Report, backing_id: Option<FileId>) {
        let name = report.job.name.clone();
        self.know_again(&report.job);
        let action = self.action_on(name.as_str(), "worker adopt");
        let process = Process::of_pid(report.pid);
        let adopted = process
            .map_err(|error| Failure::from_error(FailureKind::System, &error))
            .and_then(|process| self.keep(&Device { backing_id, ..Device::new(report, process, None) }));
        self.recorder.record(&action, &adopted);
        self.watch(&name);
        if !self.take_claim(&name) {
            self.take_claim_later(name);
        }
    }

    /// Has the worker of an adopted device hand over the claim on its backing, so that it outlives the worker. Says whether nothing
    /// is left to be asked for.
    fn take_claim(&self, name: &Name) -> bool {
        let Some(device) = self.devices().get(name).cloned() else { return true };
        let job = &device.report.job;
        if device.claimed.is_some() || job.backing.is_none() || device.state != State::Live {
            return true;
        }
        let claimed = match worker::ask_for_backing(&job.socket) {
            Ok(Some(file)) => Claimed::of_worker(file, job),
            // A worker of an older release has a claim of its own, and does not hand it over.
            Ok(None) => return true,
            Err(failure) if failure.kind == FailureKind::Protocol => return true,
            Err(failure) => Err(failure),
        };
        match claimed {
            Ok(claimed) => {
                let mut kept = device.clone();
                (kept.backing_id, kept.claimed) = (Some(claimed.id), Some(claimed));
                let mut devices = self.devices();
                let current = devices.get_mut(name).filter(|current| current.is_same(&device));
                let Some(current) = current else { return false };
                *current = kept;
                true
            }
            Err(failure) => {
                log::warn!("volume {name}: its worker does not hand over its backing: {failure}");
                false
            }
        }
    }

    fn take_claim_later(self: &Arc<Self>, name: Name) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            let mut pause = FIRST_PAUSE;
            loop {
                std::thread::sleep(pause);
                if daemon.take_claim(&name) {
                    return;
                }
                pause = longer(pause);
            }
        });
    }

    /// Takes over a device whose worker is gone or does not answer, as far as there is one.
    fn adopt_device(self: &Arc<Self>, name: &Name) {
        match Record::read(&self.options.worker_record(name)).filter(|record| record.name() == name) {
            Some(Record::Serving { report, backing_id }) => self.adopt_served(*report, backing_id),
            Some(Record::Starting { job }) => self.abandon(*job),
            None => self.remove_traces(name),
        }
    }

    fn adopt_served(self: &Arc<Self>, report: Report, backing_id: Option<FileId>) {
        let name = report.job.name.clone();
        let state = State::Quiesced("its worker ended while no daemon ran".into());
        let device = Device { report, process: None, state, early_deaths: 0, claimed: None, backing_id };
        let adopt_quiesced = |device: &Device| {
            self.know_again(&device.report.job);
            self.recorder.record(&self.action_on(name.as_str(), "worker adopt"), &self.keep(device));
            self.retry_later(&name, Duration::ZERO);
        };
        match device.identity().info(&*self.driver) {
            // Served, but by a worker that is too busy to answer.
            Ok(Some(info)) if info.is_served() => {
                let pid = info.server.unwrap_or(device.report.pid);
                self.adopt_worker(Report { pid, ..device.report }, backing_id);
            }
            Ok(Some(info)) if info.phase != Phase::Dead => adopt_quiesced(&device),
            Ok(_) => {
                self.was_stopped(&device);
                self.forget(&device);
            }
            Err(error) => {
                log::error!("volume {name}: {}", Failure::from(error));
                adopt_quiesced(&device);
            }
        }
    }

    /// A daemon ended while it started a worker on `job`. The worker sees that nobody waits for it, and takes its device with
    /// it; if it was killed, too, the device is deleted here.
    fn abandon(self: &Arc<Self>, job: Job) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            let _turn = daemon.turns.take(&job.name);
            let begun = Instant::now();
            while daemon.driver.find(job.word()).is_some_and(|info| info.has_server()) {
                if begun.elapsed() > ABANDONED_LIMIT {
                    log::error!("volume {}: a worker that nobody asked for does not end", job.name);
                    return;
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            daemon.delete_by_word(job.word());
            if !daemon.devices().contains_key(&job.name) {
                daemon.remove_traces(&job.name); // which are not those of a later start
            }
        });
    }

    fn remove_traces(&self, name: &Name) {
        remove_file(&self.options.worker_record(name));
        remove_file(&self.options.worker_socket(name));
    }
}

/// The header of the volume that `job` serves, on its claimed backing.
fn header_of(job: &Job, claimed: &Claimed) -> Result<Header, Failure> {
    let backing = job.backing.clone().unwrap_or_default();
    let place = match &job.header {
        None => Place::attached(backing),
        Some(header) => Place::detached(backing, header),
    };
    let header = claimed.header(&place)?;
    match job.uuid {
        Some(uuid) if uuid != header.uuid => {
            Err(VolumeError::Replaced { name: job.name.clone(), backing: place.backing }.into())
        }
        _ => Ok(header),
    }
}
