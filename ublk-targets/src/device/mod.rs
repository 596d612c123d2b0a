//! The life of a ublk device: add, start, recover, stop, delete.
//!
//! `serve` is the life as its server sees it; what others may do to a device is here.

mod serve;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use libublk::ctrl::UblkCtrl;
use libublk::{UblkError, sys};

use crate::stats::{QueueStats, Snapshot};

pub use serve::serve;

/// How long a control command may take. Some kernels never answer some of them.
const CONTROL_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of the buffers of all tags of a device: they are locked memory, and whoever may open a volume chooses the layout.
const MAX_BUFFERS: u64 = 1 << 30;

/// Why a device could not be made, kept or ended.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel has no ublk driver, or it is not loaded.
    #[error("this kernel offers no ublk: /dev/ublk-control is not there")]
    NoDriver,
    /// The driver is there but this process may not use it.
    #[error("cannot open /dev/ublk-control")]
    Control(#[source] io::Error),
    /// A figure of the layout is outside what the driver takes.
    #[error("{what} is {value}, but must be {bounds}")]
    Layout {
        /// Which figure.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        bounds: &'static str,
    },
    /// The driver refused a step.
    #[error("ublk: cannot {step} the device")]
    Driver {
        /// Which step of its life.
        step: &'static str,
        /// What the driver answered.
        #[source]
        source: UblkError,
    },
    /// The driver did not answer in time. The step may still happen later.
    #[error("ublk: the kernel did not {step} device {id} within {} s; it may be held open", CONTROL_LIMIT.as_secs())]
    Timeout {
        /// Which step of its life.
        step: &'static str,
        /// The device's number.
        id: u32,
    },
}

/// How a device is laid out. The buffers of all tags, `queues` x `depth` x `max_io`, take 1 GiB at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Hardware queues; 1 to 64.
    pub queues: u16,
    /// Threads that share a queue's tags; 1 to 16, and no more than tags. Where the driver binds whole queues to threads
    /// (before Linux 6.16), one serves each queue whatever this says.
    pub threads: u16,
    /// Requests that a queue has under way at once; 1 to 1024.
    pub depth: u16,
    /// Bytes of the largest request; a power of two from 4096, and from a page, to 4 MiB. Each tag has a buffer of this size.
    pub max_io: u32,
    /// Microseconds that a queue's thread looks for requests before it sleeps; 0 to 1 000 000.
    pub spin_us: u32,
}

impl Default for Layout {
    /// A queue for each two processors up to four, each with one thread and 64 requests of up to 256 KiB.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let queues = processors.div_ceil(2).clamp(1, 4) as u16;
        Self { queues, threads: 1, depth: 64, max_io: 256 << 10, spin_us: 0 }
    }
}

impl Layout {
    /// Checks each figure against its bounds.
    pub fn check(&self) -> Result<(), DeviceError> {
        let fail = |what, value: u64, bounds| Err(DeviceError::Layout { what, value, bounds });
        if !(1..=64).contains(&self.queues) {
            return fail("the number of queues", self.queues.into(), "1 to 64");
        }
        if !(1..=1024).contains(&self.depth) {
            return fail("the queue depth", self.depth.into(), "1 to 1024");
        }
        if !(1..=self.depth.min(16)).contains(&self.threads) {
            return fail(
                "the number of threads a queue",
                self.threads.into(),
                "1 to 16, and at most the queue depth",
            );
        }
        let bounds = u64::from(page_size().max(4096))..=4 << 20;
        if !self.max_io.is_power_of_two() || !bounds.contains(&self.max_io.into()) {
            return fail(
                "the largest request",
                self.max_io.into(),
                "a power of two from 4096, or a page where that is more, to 4194304 bytes",
            );
        }
        let buffers = u64::from(self.queues) * u64::from(self.depth) * u64::from(self.max_io);
        if buffers > MAX_BUFFERS {
            return fail(
                "the memory for requests (queues times depth times the largest request)",
                buffers,
                "at most 1073741824 bytes (1 GiB)",
            );
        }
        if self.spin_us > 1_000_000 {
            return fail("the time to spin", self.spin_us.into(), "0 to 1000000 microseconds");
        }
        Ok(())
    }
}

/// Bytes of a page: the driver rounds the largest request down to whole ones.
fn page_size() -> u32 {
    // SAFETY: asks for a number.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Whose device it is: the driver keeps this with the device in the part of its record that it leaves to servers, so that
/// a supervisor finds its own devices among those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(u64);

impl Owner {
    /// The owner of this name (FNV-1a, 64 bits).
    pub fn named(name: &[u8]) -> Self {
        Self(name.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        }))
    }
}

/// Whether a new device is made or one whose server died is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new device of this owner; the driver picks the number.
    Add(Owner),
    /// The device of this number, which kept its node and its queued requests. The layout must be the one it was
    /// added with.
    Recover(u32),
}

/// A device that serves requests.
#[derive(Clone)]
pub struct Running {
    id: u32,
    threads: u16,
    stats: Arc<[QueueStats]>,
}

impl Running {
    /// The device's number: N of `/dev/ublkbN`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The device's node.
    pub fn node(&self) -> PathBuf {
        node(self.id)
    }

    /// Threads that share a queue's tags.
    pub fn threads(&self) -> u16 {
        self.threads
    }

    /// What it has served since this process started it.
    pub fn stats(&self) -> Snapshot {
        QueueStats::snapshot(&self.stats)
    }
}

/// The node of device `id`.
pub fn node(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// Fails unless the driver is there and this process may use it.
pub fn check_available() -> Result<(), DeviceError> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/ublk-control") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(DeviceError::NoDriver),
        Err(error) => Err(DeviceError::Control(error)),
    }
}

/// Ends device `id`: its server's [`serve()`] returns and deletes it. Whoever still has it open gets errors.
pub fn stop(id: u32) -> Result<(), DeviceError> {
    bounded("stop", id, move |control| control.kill_dev())
}

/// Deletes device `id`, which has no server any more.
pub fn delete(id: u32) -> Result<(), DeviceError> {
    bounded("delete", id, move |control| {
        ignore_absent(control.kill_dev())?;
        control.del_dev()
    })
}

/// Numbers of all ublk devices, of whatever server, in order.
pub fn list() -> Vec<u32> {
    let names = fs::read_dir("/sys/class/ublk-char").into_iter().flatten().flatten();
    let mut ids: Vec<u32> =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("ublkc")?.parse().ok()).collect();
    ids.sort_unstable();
    ids
}

/// Numbers of this owner's devices that no process serves: quiesced ones, and those whose server died while it made them.
pub fn orphans(owner: Owner) -> Vec<u32> {
    let is_orphan = |id: &u32| {
        is_orphan(*id, owner).unwrap_or_else(|error| {
            log::warn!("cannot tell whether ublk device {id} is served: {error}");
            false
        })
    };
    list().into_iter().filter(is_orphan).collect()
}

fn is_orphan(id: u32, owner: Owner) -> Result<bool, DeviceError> {
    let control = open_simple(id)?;
    control.read_dev_info().map_err(driver("look at"))?;
    let info = control.dev_info();
    let served = u32::from(info.state) == sys::UBLK_S_DEV_LIVE
        && Path::new(&format!("/proc/{}", info.ublksrv_pid)).exists();
    Ok(info.ublksrv_flags == owner.0 && !served)
}

fn open_simple(id: u32) -> Result<UblkCtrl, DeviceError> {
    check_available()?;
    UblkCtrl::new_simple(id.cast_signed()).map_err(driver("look at"))
}

/// Runs a control command on a thread of its own and gives up on it after [`CONTROL_LIMIT`]: the thread may be stuck
/// in the kernel, where nothing can end it.
fn bounded(
    step: &'static str,
    id: u32,
    command: impl FnOnce(&UblkCtrl) -> Result<i32, UblkError> + Send + 'static,
) -> Result<(), DeviceError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let outcome = open_simple(id).and_then(|control| command(&control).map_err(driver(step)));
        // Nobody listens any more if the limit has passed.
        let _ = sender.send(outcome);
    });
    match receiver.recv_timeout(CONTROL_LIMIT) {
        Ok(outcome) => outcome.map(|_| ()),
        Err(_) => Err(DeviceError::Timeout { step, id }),
    }
}

fn ignore_absent(outcome: Result<i32, UblkError>) -> Result<i32, UblkError> {
    match outcome {
        Err(UblkError::OtherError(errno)) if errno == -libc::ENOENT || errno == -libc::ENODEV => Ok(0),
        other => other,
    }
}

/// libublk keeps the driver's errno in a variant whose message does not show it.
fn driver(step: &'static str) -> impl Fn(UblkError) -> DeviceError {
    move |source| DeviceError::Driver {
        step,
        source: match source {
            UblkError::OtherError(errno) | UblkError::UringIOError(errno) => {
                UblkError::IOError(io::Error::from_raw_os_error(errno.abs()))
            }
            other => other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_apart_by_their_names() {
        // The test vector of the FNV authors for "foobar".
        assert_eq!(Owner::named(b"foobar"), Owner(0x8594_4171_f739_67e8));
        assert_ne!(Owner::named(b"/run/a"), Owner::named(b"/run/b"));
    }

    #[test]
    fn a_layout_outside_its_bounds_is_refused() {
        let good = Layout { queues: 1, threads: 1, depth: 1, max_io: 4096, spin_us: 0 };
        assert!(good.check().is_ok());
        assert!(Layout::default().check().is_ok());
        assert!(Layout { queues: 1, depth: 256, max_io: 4 << 20, ..good }.check().is_ok());
        let bad = [
            Layout { queues: 0, ..good },
            Layout { queues: 65, ..good },
            Layout { threads: 0, ..good },
            Layout { threads: 2, ..good },
            Layout { threads: 17, depth: 64, ..good },
            Layout { depth: 0, ..good },
            Layout { depth: 1025, ..good },
            Layout { max_io: 2048, ..good },
            Layout { max_io: 12288, ..good },
            Layout { max_io: 8 << 20, ..good },
            Layout { spin_us: 1_000_001, ..good },
            Layout { queues: 64, depth: 1024, max_io: 32 << 10, ..good },
            Layout { queues: 2, depth: 256, max_io: 4 << 20, ..good },
        ];
        for layout in bad {
            assert!(matches!(layout.check(), Err(DeviceError::Layout { .. })), "{layout:?}");
        }
    }
}
