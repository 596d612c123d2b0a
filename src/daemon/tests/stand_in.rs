//! In place of ublk and of workers: a driver that is a table, and processes that wait for the end of this one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use ublk_targets::device::{DeviceError, Info, Phase, Word};

use super::*;
use crate::identity::FileId;

/// A driver that gives out the lowest free number, as the kernel's does.
#[derive(Default)]
pub struct StandIn {
    table: Mutex<BTreeMap<u32, Info>>,
    /// What each worker that is started is to fail with, and whether it leaves a device.
    failures: Mutex<Vec<(Failure, bool)>>,
    /// What all fail with.
    lasting: Mutex<Option<Failure>>,
    /// What each worker was given to serve.
    served: Mutex<Vec<FileId>>,
}

impl StandIn {
    /// Adds a device and gives its number.
    pub fn add(&self, word: Word, server: Option<u32>, phase: Phase) -> u32 {
        let mut table = self.table.lock().unwrap();
        let id = (0..).find(|id| !table.contains_key(id)).unwrap();
        table.insert(id, Info { id, word, server, phase });
        id
    }

    /// Takes a device away, as a server that deletes its own does, and gives its number to another.
    pub fn give_away(&self, id: u32, word: Word) {
        self.table.lock().unwrap().insert(id, Info { id, word, server: Some(1), phase: Phase::Live });
    }

    /// Changes a device.
    pub fn change(&self, id: u32, change: impl FnOnce(&mut Info)) {
        change(self.table.lock().unwrap().get_mut(&id).unwrap());
    }

    /// Has the next worker fail; it leaves its device behind or not.
    pub fn fail_next(&self, failure: Failure, leaves_device: bool) {
        self.failures.lock().unwrap().push((failure, leaves_device));
    }

    /// Has every worker fail from now on.
    pub fn fail_always(&self, failure: Failure) {
        *self.lasting.lock().unwrap() = Some(failure);
    }

    /// Has workers start again.
    pub fn fail_no_more(&self) {
        *self.lasting.lock().unwrap() = None;
    }

    /// What the last worker was given to serve.
    pub fn last_served(&self) -> FileId {
        *self.served.lock().unwrap().last().unwrap()
    }

    /// How many workers were started.
    pub fn starts(&self) -> usize {
        self.served.lock().unwrap().len()
    }

    /// Starts the stand-in for a worker.
    pub fn start_worker(&self, start: worker::Start<'_>) -> Result<(Report, Process), Failure> {
        let worker::Start { job, recover, dek, backing } = start;
        assert_eq!(dek.is_some(), job.target == TargetKind::Crypt);
        assert_eq!(backing.is_some(), job.backing.is_some());
        dek.map(volume::Unverified::verify).transpose()?;
        if let Some(failure) = self.lasting.lock().unwrap().clone() {
            return Err(failure);
        }
        if let Some((failure, leaves_device)) = self.failures.lock().unwrap().pop() {
            if leaves_device {
                self.add(job.word(), None, Phase::Dead);
            }
            return Err(failure);
        }
        self.served.lock().unwrap().extend(backing.map(|file| FileId::of(&file).unwrap()));
        let waits = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = waits.id();
        let device_id = recover.unwrap_or_else(|| self.add(job.word(), None, Phase::Dead));
        self.change(device_id, |info| {
            assert_eq!(info.word, job.word(), "another device is taken over");
            (info.server, info.phase) = (Some(pid), Phase::Live);
        });
        let report = Report {
            job,
            pid,
            device_id,
            node: format!("/dev/ublkb{device_id}-of-a-test").into(),
            threads: Some(1),
            cpu_path: None,
            key_memory: None,
            counters: Counters::default(),
        };
        Ok((report, Process::of_child(waits).unwrap()))
    }
}

impl Driver for StandIn {
    fn list(&self) -> Vec<u32> {
        self.table.lock().unwrap().keys().copied().collect()
    }

    fn info(&self, id: u32) -> Result<Option<Info>, DeviceError> {
        Ok(self.table.lock().unwrap().get(&id).copied())
    }

    fn stop(&self, id: u32) -> Result<(), DeviceError> {
        let mut table = self.table.lock().unwrap();
        let info = table.get_mut(&id).expect("a device that is not there is stopped");
        let server = info.server.take();
        info.phase = Phase::Dead;
        if let Some(pid) = server.filter(|pid| *pid > 1) {
            // Its server ends then, if it has not before.
            Process::of_pid(pid).map(|process| process.kill()).unwrap_or_default();
        }
        Ok(())
    }

    fn sees_users(&self) -> bool {
        false
    }

    fn stop_unused(&self, _: u32) -> Result<bool, DeviceError> {
        unreachable!("it does not see users")
    }

    fn delete(&self, id: u32) -> Result<(), DeviceError> {
        let removed = self.table.lock().unwrap().remove(&id).expect("a device that is not there is deleted");
        assert_eq!(removed.phase, Phase::Dead, "a device is deleted before it is stopped");
        Ok(())
    }
}
