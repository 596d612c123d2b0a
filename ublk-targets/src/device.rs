//! The life of a ublk device: add, start, recover, stop, delete.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::io::{UblkDev, io_thread_idx};
use libublk::{UblkError, UblkFlags, sys};

use crate::queue;
use crate::request::{LBA_BYTES, Shape};
use crate::stats::{QueueStats, Snapshot};
use crate::target::Target;

/// How long a control command may take. Some kernels never answer some of them.
const CONTROL_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of zeros that one request may ask for, so that a tag is not busy with it for long.
const MAX_WRITE_ZEROES: u32 = 16 << 20;
/// Bytes that one discard may cover.
const MAX_DISCARD: u32 = 1 << 30;

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

/// How a device is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Hardware queues; 1 to 64.
    pub queues: u16,
    /// Threads that share a queue's tags; 1 to 16, and no more than tags. Where the driver binds whole queues to threads
    /// (before Linux 6.16), one serves each queue whatever this says.
    pub threads: u16,
    /// Requests that a queue has under way at once; 1 to 1024.
    pub depth: u16,
    /// Bytes of the largest request; a power of two from 4096 to 4 MiB. Each tag has a buffer of this size.
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
        if !self.max_io.is_power_of_two() || !(4096..=4 << 20).contains(&self.max_io) {
            return fail(
                "the largest request",
                self.max_io.into(),
                "a power of two from 4096 to 4194304 bytes",
            );
        }
        if self.spin_us > 1_000_000 {
            return fail("the time to spin", self.spin_us.into(), "0 to 1000000 microseconds");
        }
        Ok(())
    }
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

/// Serves a device with `target` until somebody stops it with [`stop`], then deletes it. `ready` runs once its node
/// takes requests.
///
/// The device stays, quiesced, if this process dies: a new one takes it over with [`Start::Recover`].
pub fn serve<T: Target>(
    start: Start,
    layout: &Layout,
    target: T,
    ready: impl FnOnce(Running) + Send + Sync + 'static,
) -> Result<(), DeviceError> {
    layout.check()?;
    check_available()?;
    let control = open_control(start, layout, T::NAME)?;
    let id = control.dev_info().dev_id;
    if matches!(start, Start::Recover(_)) {
        control.start_user_recover().map_err(driver("recover"))?;
    }
    let shape = *target.shape();
    let backing = target.backing_fd();
    let threads = control.io_threads_per_queue();
    let (target, stats) = (Arc::new(target), thread_stats(layout.queues, threads));
    let running = Running { id, threads, stats: Arc::clone(&stats) };
    let initialise = move |device: &mut UblkDev| {
        device.tgt.dev_size = shape.sectors * LBA_BYTES;
        device.tgt.params = params(&shape, device.dev_info.max_io_buf_bytes);
        if let Some(fd) = backing {
            let index = device.tgt.nr_fds as usize;
            device.tgt.fds[index] = fd;
            device.tgt.nr_fds += 1;
        }
        Ok(())
    };
    let spin = Duration::from_micros(layout.spin_us.into());
    let serve_queue = move |index: u16, device: &UblkDev| {
        let thread = usize::from(index) * usize::from(threads) + usize::from(io_thread_idx());
        queue::ublk::serve(index, device, spin, &*target, &stats[thread]);
    };
    control.run_target(initialise, serve_queue, move |_| ready(running)).map_err(driver("start"))?;
    if matches!(start, Start::Recover(_)) {
        // Only a control handle that added its device deletes it by itself.
        ignore_absent(control.del_dev()).map_err(driver("delete"))?;
    }
    Ok(())
}

/// Ends device `id`: its server's [`serve`] returns and deletes it. Whoever still has it open gets errors.
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

fn thread_stats(queues: u16, threads: u16) -> Arc<[QueueStats]> {
    (0..usize::from(queues) * usize::from(threads)).map(|_| QueueStats::default()).collect()
}

fn open_control(start: Start, layout: &Layout, name: &'static str) -> Result<UblkCtrl, DeviceError> {
    let features = UblkCtrl::get_features().unwrap_or(0);
    let wanted = u64::from(sys::UBLK_F_USER_RECOVERY | sys::UBLK_F_USER_RECOVERY_REISSUE);
    // Lets a worker be replaced without an error in between, where the driver (6.16) has it.
    let flags = wanted | features & u64::from(sys::UBLK_F_QUIESCE);
    let threads = if features & u64::from(sys::UBLK_F_PER_IO_DAEMON) == 0 { 1 } else { layout.threads };
    let (id, owner, dev_flags) = match start {
        Start::Add(Owner(owner)) => (-1, owner, UblkFlags::UBLK_DEV_F_ADD_DEV),
        Start::Recover(id) => (id.cast_signed(), 0, UblkFlags::UBLK_DEV_F_RECOVER_DEV),
    };
    UblkCtrlBuilder::default()
        .name(name)
        .id(id)
        .nr_queues(layout.queues)
        .depth(layout.depth)
        .io_threads_per_queue(threads)
        .io_buf_bytes(layout.max_io)
        .ctrl_flags(flags)
        .ctrl_target_flags(owner)
        .dev_flags(dev_flags)
        .build()
        .map_err(driver("add"))
}

fn open_simple(id: u32) -> Result<UblkCtrl, DeviceError> {
    check_available()?;
    UblkCtrl::new_simple(id.cast_signed()).map_err(driver("look at"))
}

/// The parameters of linux/ublk_cmd.h for a device of this shape.
fn params(shape: &Shape, max_io: u32) -> sys::ublk_params {
    let sector = u32::from(shape.sector_size);
    let read_only = if shape.read_only { sys::UBLK_ATTR_READ_ONLY } else { 0 };
    let shift = |bytes: u32| bytes.ilog2() as u8;
    sys::ublk_params {
        types: sys::UBLK_PARAM_TYPE_BASIC | sys::UBLK_PARAM_TYPE_DISCARD,
        basic: sys::ublk_param_basic {
            attrs: sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA | read_only,
            logical_bs_shift: shift(sector),
            physical_bs_shift: shift(shape.physical_block.max(sector)),
            io_opt_shift: shift(max_io),
            io_min_shift: shift(shape.physical_block.max(sector)),
            max_sectors: max_io / LBA_BYTES as u32,
            dev_sectors: shape.sectors,
            ..Default::default()
        },
        discard: sys::ublk_param_discard {
            discard_granularity: sector,
            max_discard_sectors: if shape.discard { MAX_DISCARD / LBA_BYTES as u32 } else { 0 },
            max_write_zeroes_sectors: MAX_WRITE_ZEROES / LBA_BYTES as u32,
            max_discard_segments: 1,
            ..Default::default()
        },
        ..Default::default()
    }
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
        ];
        for layout in bad {
            assert!(matches!(layout.check(), Err(DeviceError::Layout { .. })), "{layout:?}");
        }
    }
}
