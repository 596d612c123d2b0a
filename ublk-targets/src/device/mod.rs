//! The life of a ublk device: add, start, recover, stop, delete.
//!
//! | file | what it holds |
//! |---|---|
//! | `serve` | the life as its server sees it |
//! | `recovery` | how a device whose server is gone is readied for the next one |
//! | `driver` | what others may do to a device, which they know by more than its number |
//! | `privilege` | what a queue's thread gives up, so that the driver does not trust it |
//! | `control` | ublk's control commands, one at a time |
//! | `error` | why a step of it failed |

mod control;
mod driver;
mod error;
mod privilege;
mod recovery;
mod serve;

use std::path::PathBuf;
use std::sync::Arc;

use crate::stats::{QueueStats, Snapshot};

pub use driver::{Driver, Identity, Info, Kernel, Phase, Word};
pub use error::DeviceError;
pub use serve::serve;

/// Bytes of the buffers of all tags of a device: they are locked memory, and whoever may open a volume chooses the layout.
const MAX_BUFFERS: u64 = 1 << 30;

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
    /// Bytes of the largest request; a power of two from 4096 to 4 MiB, and a page of memory at least. Each tag has a buffer of
    /// this size.
    pub max_io: u32,
    /// Microseconds that a queue's thread looks for requests before it sleeps; 0 to 1 000 000.
    pub spin_us: u32,
    /// Whether the kernel looks for partitions, by itself when the device starts and later when it is told to. Where it does not,
    /// drivers before Linux 7.0 let it be told of each partition only.
    pub partitions: bool,
}

impl Default for Layout {
    /// A queue for each two processors up to four, each with one thread and 64 requests of up to 256 KiB; no partitions.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
        let queues = processors.div_ceil(2).clamp(1, 4) as u16;
        Self { queues, threads: 1, depth: 64, max_io: 256 << 10, spin_us: 0, partitions: false }
    }
}

impl Layout {
    /// Checks each figure against its bounds.
    pub fn check(&self) -> Result<(), DeviceError> {
        // SAFETY: asks for a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        self.check_for(u32::try_from(page).unwrap_or(4096))
    }

    /// The same where memory has pages of `page` bytes: the driver rounds requests down to whole ones.
    fn check_for(&self, page: u32) -> Result<(), DeviceError> {
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
        if !self.max_io.is_power_of_two() || !(page.max(4096)..=4 << 20).contains(&self.max_io) {
            return fail(
                "the largest request",
                self.max_io.into(),
                "a power of two from 4096 (or a page of memory, where that is more) to 4194304 bytes",
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

/// Whether a new device is made or one whose server died is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A new device with this word, which no other has; the driver picks the number.
    Add(Word),
    /// The device of this number and word, which kept its node and its queued requests. The layout must be the one it was
    /// added with.
    Recover(u32, Word),
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
    control::open_node().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_outside_its_bounds_is_refused() {
        let good = Layout { queues: 1, threads: 1, depth: 1, max_io: 4096, spin_us: 0, partitions: false };
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
        assert!(good.check_for(64 << 10).is_err(), "less than a page");
        assert!(Layout { max_io: 64 << 10, ..good }.check_for(64 << 10).is_ok());
    }
}
