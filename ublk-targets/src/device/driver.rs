//! What others than its server may do to a ublk device.
//!
//! The driver knows a device by its number, which it gives out again as soon as it is free. So each step here looks at the
//! word that the device was made with first: a number alone says nothing about whose device it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use libublk::sys;
use serde::{Deserialize, Serialize};

use super::control::{Control, is_absent};
use super::error::{CONTROL_LIMIT, DeviceError};

/// A word that the driver keeps with a device, in the part of its record that is left to servers: as good as unique where it is
/// random. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Word(u64);

impl Word {
    /// A word made of 64 random bits.
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// What releases before words were random gave all devices of one daemon: a hash (FNV-1a, 64 bits) of its directory's name.
    pub fn of_directory(name: &[u8]) -> Self {
        Self(name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }

    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        format!("{:016x}", word.0)
    }
}

impl TryFrom<String> for Word {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

/// Where a device is in its life, as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is not started yet, or was stopped.
    Dead,
    /// It takes requests, and its server is there or has just died.
    Live,
    /// Its server died; requests wait for the next one.
    Quiesced,
}

/// What the driver knows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub id: u32,
    /// The word that it was made with.
    pub word: Word,
    /// The process id of the server that started it or took it over last; none where none has, or it was stopped.
    pub server: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase,
}

impl Info {
    /// Whether a process of the server's id is there, that serves the device or is about to.
    pub fn has_server(&self) -> bool {
        self.server.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
    }

    /// Whether the server is there and serves the device.
    pub fn is_served(&self) -> bool {
        self.phase == Phase::Live && self.has_server()
    }
}

/// The driver's control commands. Tests have a driver of their own.
pub trait Driver: Send + Sync {
    /// Numbers of all devices, of whatever server, in order.
    fn list(&self) -> Vec<u32>;
    /// What is known of device `id`; none where there is no such device.
    fn info(&self, id: u32) -> Result<Option<Info>, DeviceError>;
    /// Ends device `id`: its server's [`serve()`](super::serve()) returns, and whoever still has it open gets errors.
    fn stop(&self, id: u32) -> Result<(), DeviceError>;
    /// Whether the driver (since Linux 7.0) can stop a device only if nobody has it open.
    fn sees_users(&self) -> bool;
    /// Ends device `id` as [`stop`](Self::stop) does, unless somebody has it, or a partition of it, open. Says whether it did.
    fn stop_unused(&self, id: u32) -> Result<bool, DeviceError>;
    /// Deletes device `id`, which has no server any more.
    fn delete(&self, id: u32) -> Result<(), DeviceError>;
}

impl dyn Driver {
    /// The device that was made with `word`.
    pub fn find(&self, word: Word) -> Option<Info> {
        self.list().into_iter().find_map(|id| self.info(id).ok()?.filter(|info| info.word == word))
    }
}

/// What makes a device this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub id: u32,
    /// The word that it was made with.
    pub word: Word,
    /// Its server, where that is known to be alive, or where the word is of many devices.
    pub server: Option<u32>,
}

impl Identity {
    /// What the driver knows of this device; none where it is gone, whoever has its number now.
    pub fn info(&self, driver: &dyn Driver) -> Result<Option<Info>, DeviceError> {
        let is_same = |info: &Info| {
            let servers = self.server.zip(info.server);
            info.word == self.word && servers.is_none_or(|(known, found)| known == found)
        };
        Ok(driver.info(self.id)?.filter(is_same))
    }

    /// Stops the device. One that is gone is no failure.
    pub fn stop(&self, driver: &dyn Driver) -> Result<(), DeviceError> {
        match self.info(driver)? {
            Some(info) => driver.stop(info.id),
            None => Ok(()),
        }
    }

    /// Stops the device unless somebody has it open, where the driver sees that, and says whether it is stopped. One that is gone is
    /// no failure.
    pub fn stop_unused(&self, driver: &dyn Driver) -> Result<bool, DeviceError> {
        match self.info(driver)? {
            Some(info) => driver.stop_unused(info.id),
            None => Ok(true),
        }
    }

    /// Stops and deletes the device, which has no server any more. One that is gone is no failure.
    pub fn delete(&self, driver: &dyn Driver) -> Result<(), DeviceError> {
        let Some(info) = self.info(driver)? else { return Ok(()) };
        driver.stop(info.id)?;
        // Nobody else deletes it, so that the number is still its own.
        match driver.delete(info.id) {
            // An old driver waits until the number is free, and does not see it being free for a moment only.
            Err(DeviceError::Timeout { .. }) if matches!(self.info(driver), Ok(None)) => Ok(()),
            other => other,
        }
    }
}

/// The driver of the running kernel.
#[derive(Default)]
pub struct Kernel {
    under_way: Arc<UnderWay>,
}

/// The devices that a command is under way on. A command may be stuck in the kernel, where nothing can end it: another on the same
/// device would only be stuck behind it.
#[derive(Default)]
struct UnderWay {
    ids: Mutex<BTreeSet<u32>>,
    ended: Condvar,
}

/// That a command is under way on one device, until dropped.
struct Place(Arc<UnderWay>, u32);

impl UnderWay {
    /// Waits until no command is under way on device `id`, until `deadline` at most.
    fn enter(self: &Arc<Self>, id: u32, deadline: Instant) -> Option<Place> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.ended.wait_timeout_while(ids, left, |ids| ids.contains(&id));
        let (mut ids, _) = waited.unwrap_or_else(PoisonError::into_inner);
        ids.insert(id).then(|| Place(Arc::clone(self), id))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        self.0.ended.notify_all();
    }
}

impl Kernel {
    /// Runs a control command on a thread of its own and gives up on it after [`CONTROL_LIMIT`].
    fn bounded<T: Send + 'static>(
        &self,
        step: &'static str,
        id: u32,
        command: impl FnOnce(&mut Control) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, DeviceError> {
        self.within(CONTROL_LIMIT, step, id, move || {
            command(&mut Control::open()?).map_err(|error| DeviceError::driver(step, error))
        })
    }

    fn within<T: Send + 'static>(
        &self,
        limit: Duration,
        step: &'static str,
        id: u32,
        command: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
    ) -> Result<T, DeviceError> {
        let deadline = Instant::now() + limit;
        let late = || DeviceError::Timeout { step, id };
        let place = self.under_way.enter(id, deadline).ok_or_else(late)?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let outcome = command();
            drop(place);
            // Nobody listens any more if the limit has passed.
            let _ = sender.send(outcome);
        });
        receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(|_| late())?
    }
}

impl Driver for Kernel {
    fn list(&self) -> Vec<u32> {
        let names = fs::read_dir("/sys/class/ublk-char").into_iter().flatten().flatten();
        let id = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok();
        let mut ids: Vec<u32> = names.filter_map(id).collect();
        ids.sort_unstable();
        ids
    }

    fn info(&self, id: u32) -> Result<Option<Info>, DeviceError> {
        let info = self.bounded("look at", id, move |control| control.info(id))?;
        Ok(info.map(|info| Info {
            id,
            word: Word(info.ublksrv_flags),
            server: u32::try_from(info.ublksrv_pid).ok().filter(|pid| *pid != 0),
            phase: match u32::from(info.state) {
                sys::UBLK_S_DEV_DEAD => Phase::Dead,
                sys::UBLK_S_DEV_LIVE => Phase::Live,
                _ => Phase::Quiesced,
            },
        }))
    }

    fn stop(&self, id: u32) -> Result<(), DeviceError> {
        self.bounded("stop", id, move |control| ignore_absent(control.stop(id)))
    }

    fn sees_users(&self) -> bool {
        Control::open().is_ok_and(|mut control| control.sees_users())
    }

    fn stop_unused(&self, id: u32) -> Result<bool, DeviceError> {
        self.bounded("stop", id, move |control| match control.stop_unused(id) {
            Err(error) if is_absent(&error) => Ok(true),
            other => other,
        })
    }

    fn delete(&self, id: u32) -> Result<(), DeviceError> {
        self.bounded("delete", id, move |control| ignore_absent(control.delete(id)))
    }
}

fn ignore_absent(outcome: std::io::Result<()>) -> std::io::Result<()> {
    match outcome {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_written_and_read_and_old_ones_are_hashes() {
        // The test vector of the FNV authors for "foobar".
        assert_eq!(Word::of_directory(b"foobar"), Word(0x8594_4171_f739_67e8));
        let json = serde_json::to_string(&Word(0xabc)).unwrap();
        assert_eq!(json, "\"0000000000000abc\"");
        assert_eq!(serde_json::from_str::<Word>(&json).unwrap(), Word(0xabc));
        assert!(serde_json::from_str::<Word>("\"word\"").is_err());
    }

    #[test]
    fn a_command_that_is_stuck_takes_one_thread_and_holds_up_no_other_device() {
        let kernel = Kernel::default();
        let (release, stuck) = mpsc::channel::<()>();
        let outcome = kernel.within(Duration::from_millis(10), "stop", 1, move || {
            let _ = stuck.recv();
            Ok(())
        });
        assert!(matches!(outcome, Err(DeviceError::Timeout { id: 1, .. })));
        let again = kernel.within(Duration::from_millis(10), "stop", 1, || -> Result<(), _> {
            unreachable!("the first one is still there")
        });
        assert!(matches!(again, Err(DeviceError::Timeout { id: 1, .. })));
        let long = Duration::from_secs(60);
        assert_eq!(kernel.within(long, "stop", 2, || Ok(2)).unwrap(), 2);
        release.send(()).unwrap();
        assert_eq!(kernel.within(long, "stop", 1, || Ok(1)).unwrap(), 1, "once it has ended");
    }
}
