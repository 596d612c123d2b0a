//! Workers that ended are replaced, and workers that an earlier daemon started are adopted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ublk_targets::device;

use super::Daemon;
use super::devices::Device;
use super::process::Process;
use super::waiting::is_locked;
use super::{links, worker};
use crate::atomic_file;
use crate::control::worker::{Report, owner};
use crate::control::{Failure, FailureKind, TargetKind};
use crate::name::Name;
use crate::volume::State;

/// A worker that ends sooner than this has not done well.
const EARLY: Duration = Duration::from_secs(30);
/// After so many early deaths in a row a device is left quiesced for somebody to look at.
const MAX_EARLY_DEATHS: u32 = 5;
/// The driver needs a moment to see that a server is gone; attempts to take a device over, and the pauses between.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(250);
/// Bytes of the longest record of a worker.
const RECORD_LIMIT: u64 = 64 << 10;

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
        if !device::list().contains(&device.report.device_id) {
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
            let reason = format!("its worker ended {early_deaths} times in a row soon after it had started");
            log::error!("volume {name} stays quiesced: {reason}; 'open' tries again");
            self.set_quiesced(name, reason, 0);
            return;
        }
        // The event and the state tell of a failure.
        let _ = self.replace_worker(name);
    }

    fn set_quiesced(&self, name: &Name, reason: String, early_deaths: u32) {
        if let Some(device) = self.devices().get_mut(name) {
            device.state = State::Quiesced(reason);
            device.early_deaths = early_deaths;
        }
    }

    /// Has a new worker take over a quiesced device, which keeps its node and the requests that wait; where its KEK is
    /// not to be had, as soon as it is. The caller has the volume's turn.
    pub(super) fn replace_worker(self: &Arc<Self>, name: &Name) -> Result<(), Failure> {
        let Some(device) = self.devices().get(name).cloned() else { return Ok(()) };
        let mut result = self.try_to_replace(&device);
        for attempt in 1..ATTEMPTS {
            match &result {
                Err(failure) if matches!(failure.kind, FailureKind::System | FailureKind::Busy) => {
                    log::info!("volume {name}: {failure}; trying again");
                    std::thread::sleep(PAUSE * 2_u32.pow(attempt));
                    result = self.try_to_replace(&device);
                }
                _ => break,
            }
        }
        if !(is_locked(&result) && self.waits_for_kek(name)) {
            self.recorder.record(&self.action_on(name.as_str(), "worker replace"), &result);
        }
        if let Err(failure) = &result {
            self.set_quiesced(name, failure.message.clone(), device.early_deaths);
        }
        if is_locked(&result) {
            self.wait_for_kek(name);
        }
        result
    }

    fn try_to_replace(self: &Arc<Self>, device: &Device) -> Result<(), Failure> {
        let job = device.report.job.clone();
        let header = match job.target {
            TargetKind::Null | TargetKind::Plain => None,
            TargetKind::Crypt => Some(self.header_of(&job.name)?),
        };
        let dek = header.as_ref().map(|header| self.unwrap(&job.name, header)).transpose()?;
        let (report, process) = (self.start_worker)(job, Some(device.report.device_id), dek)?;
        let new = Device {
            report,
            process: Some(Arc::new(process)),
            state: State::Live,
            early_deaths: device.early_deaths,
        };
        if let Err(failure) = self.keep(&new) {
            log::warn!("volume {}: {failure}", new.report.job.name); // it serves all the same
        }
        self.watch(&new.report.job.name);
        Ok(())
    }

    fn resume_in_background(self: &Arc<Self>, name: Name) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            let _turn = daemon.turns.take(&name);
            let state = daemon.devices().get(&name).map(|device| device.state.clone());
            if matches!(state, Some(State::Quiesced(_))) {
                // The event and the state tell of a failure.
                let _ = daemon.replace_worker(&name);
            }
        });
    }

    /// Takes over what an earlier daemon left: its workers, devices whose worker ended since, what it was to open, and
    /// what is stale.
    pub(super) fn take_over(self: &Arc<Self>) {
        for name in left_behind(&self.options.workers_dir()) {
            self.adopt_left(&name);
        }
        let adopted: BTreeSet<u32> = self.devices().values().map(|device| device.report.device_id).collect();
        for id in self.orphans().into_iter().filter(|id| !adopted.contains(id)) {
            log::warn!("deleting ublk device {id}, which a worker left behind");
            if let Err(error) = device::delete(id) {
                log::warn!("{}", Failure::from(error));
            }
        }
        self.watch_age_of_keks();
        self.watch_certificates();
        self.take_over_wishes();
        let devices = self.devices();
        links::clean(&self.options.dev_dir, |name| {
            name.parse::<Name>().is_ok_and(|name| devices.contains_key(&name))
        });
    }

    /// Devices of this daemon, or of an earlier one in its place, that no process serves.
    fn orphans(&self) -> Vec<u32> {
        device::orphans(owner(&self.options.workers_dir()))
    }

    fn adopt_left(self: &Arc<Self>, name: &Name) {
        match worker::ask(&self.options.worker_socket(name)) {
            Ok((report, peer)) if report.job.name == *name && peer.pid.unsigned_abs() == report.pid => {
                self.adopt_worker(report);
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

    fn adopt_worker(self: &Arc<Self>, report: Report) {
        let name = report.job.name.clone();
        self.know_again(&report.job);
        let action = self.action_on(name.as_str(), "worker adopt");
        let adopted = Process::of_pid(report.pid)
            .map_err(|error| Failure::from_error(FailureKind::System, &error))
            .and_then(|process| {
                let process = Some(Arc::new(process));
                self.keep(&Device { report, process, state: State::Live, early_deaths: 0 })
            });
        self.recorder.record(&action, &adopted);
        self.watch(&name);
    }

    /// Takes over a device whose worker is gone, and tries to have it served again.
    fn adopt_device(self: &Arc<Self>, name: &Name) {
        let path = self.options.worker_record(name);
        let report = atomic_file::read_limited(&path, RECORD_LIMIT).ok();
        let report = report.and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
        let state = State::Quiesced("its worker ended while no daemon ran".into());
        let device = report.map(|report| Device { report, process: None, state, early_deaths: 0 });
        match device.filter(|device| device.report.job.name == *name) {
            Some(device) if self.orphans().contains(&device.report.device_id) => {
                self.know_again(&device.report.job);
                self.recorder.record(&self.action_on(name.as_str(), "worker adopt"), &self.keep(&device));
                self.resume_in_background(name.clone());
            }
            // Served, but by a worker that is too busy to answer.
            Some(device) if device::list().contains(&device.report.device_id) => {
                self.adopt_worker(device.report);
            }
            Some(device) => self.forget(&device),
            None => {
                for stale in [path, self.options.worker_socket(name)] {
                    let _ = fs::remove_file(stale); // one of the two is not there
                }
            }
        }
    }
}

/// Names of the volumes of which a socket or a record is there.
fn left_behind(directory: &Path) -> BTreeSet<Name> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| Path::new(&entry.file_name()).file_stem()?.to_str()?.parse().ok()).collect()
}
