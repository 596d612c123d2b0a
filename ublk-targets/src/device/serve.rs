//! A device is made or taken over, and serves until it is stopped.

use std::io;
use std::panic;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::io::{UblkDev, io_thread_idx, set_io_thread_idx};
use libublk::{UblkError, UblkFlags, sys};

use super::control::Control;
use super::error::{DeviceError, refused};
use super::privilege::give_up_admin;
use super::{Identity, Kernel, Layout, Running, Start, Word, recovery};
use crate::queue;
use crate::request::{LBA_BYTES, Shape};
use crate::stats::QueueStats;
use crate::target::Target;

/// Bytes of zeros that one request may ask for, so that a tag is not busy with it for long.
const MAX_WRITE_ZEROES: u32 = 16 << 20;
/// Bytes that one discard may cover.
const MAX_DISCARD: u32 = 1 << 30;

/// linux/ublk_cmd.h, since Linux 7.0: the driver has the kernel not look for partitions.
const NO_AUTO_PART_SCAN: u64 = 1 << 18;

/// Serves a device with `target` until somebody stops it; who stopped it deletes it. `added` runs with the number of the device
/// before its node appears; `ready` runs once its node takes requests, and says whether anybody knows of the device now. One that nobody knows of goes with this process.
///
/// The device stays, quiesced, if this process dies: a new one takes it over with [`Start::Recover`].
pub fn serve<T: Target>(
    start: Start,
    layout: &Layout,
    target: T,
    added: impl FnOnce(u32) + Send,
    ready: impl FnOnce(Running) -> bool,
) -> Result<(), DeviceError> {
    layout.check()?;
    // Aside: the kernel gives a thread that waits for a ring helpers, which wake every five seconds as long as it lives.
    let started = thread::scope(|scope| scope.spawn(|| Live::start(start, layout, target, added)).join());
    let live = started.unwrap_or_else(|panic| panic::resume_unwind(panic))?;
    if !ready(live.running.clone()) && matches!(start, Start::Add(_)) {
        live.identity.delete(&Kernel::default())?;
    }
    live.wait();
    Ok(())
}

/// A device whose node takes requests.
struct Live {
    identity: Identity,
    running: Running,
    queues: Vec<JoinHandle<()>>,
}

impl Live {
    fn start<T: Target>(
        start: Start,
        layout: &Layout,
        target: T,
        added: impl FnOnce(u32),
    ) -> Result<Self, DeviceError> {
        let mut driver = Control::open()?;
        let (control, identity) = open_control(start, layout, T::NAME, &mut driver)?;
        added(identity.id);
        let begun = Self::begin(control, identity, layout, target);
        if begun.is_err() && matches!(start, Start::Add(_)) {
            let deleted = identity.delete(&Kernel::default());
            if let Err(error) = deleted {
                log::warn!("ublk device {} is left: {error}", identity.id);
            }
        }
        begun
    }

    fn begin<T: Target>(
        control: UblkCtrl,
        identity: Identity,
        layout: &Layout,
        target: T,
    ) -> Result<Self, DeviceError> {
        let device = Arc::new(describe(&control, &target).map_err(refused("set up"))?);
        let threads = control.io_threads_per_queue();
        let stats: Arc<[_]> = (0..layout.queues * threads).map(|_| QueueStats::default()).collect();
        let running = Running { id: identity.id, threads, stats: Arc::clone(&stats) };
        let (target, spin) = (Arc::new(target), Duration::from_micros(layout.spin_us.into()));
        // What the driver does not let be switched off, it leaves out for servers that it does not trust.
        let distrusted = !layout.partitions && control.dev_info().flags & NO_AUTO_PART_SCAN == 0;
        let queues = start_queues(&control, &device, distrusted, move |index, device| {
            let thread = usize::from(index * threads + io_thread_idx());
            queue::ublk::serve(index, device, spin, &*target, &stats[thread]);
        })
        .map_err(refused("start the queues of"))?;
        // libublk takes "busy" for success.
        match control.start_dev(&device) {
            Ok(busy) if busy < 0 => Err(UblkError::OtherError(busy)),
            other => other,
        }
        .map_err(refused("start"))?;
        Ok(Self { identity, running, queues })
    }

    /// Waits until somebody has stopped the device.
    fn wait(self) {
        for queue in self.queues {
            queue.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
    }
}

/// What the driver and the queues need to know of a device with this target.
fn describe<T: Target>(control: &UblkCtrl, target: &T) -> Result<UblkDev, UblkError> {
    let (shape, backing) = (*target.shape(), target.backing_fd());
    UblkDev::new(
        control.get_name(),
        move |device| {
            device.tgt.dev_size = shape.sectors * LBA_BYTES;
            device.tgt.params = params(&shape, device.dev_info.max_io_buf_bytes);
            if let Some(fd) = backing {
                let index = device.tgt.nr_fds as usize;
                device.tgt.fds[index] = fd;
                device.tgt.nr_fds += 1;
            }
            Ok(())
        },
        control,
    )
}

/// Starts the threads of all queues, each on the processors of its queue.
fn start_queues(
    control: &UblkCtrl,
    device: &Arc<UblkDev>,
    distrusted: bool,
    serve: impl Fn(u16, &UblkDev) + Clone + Send + 'static,
) -> Result<Vec<JoinHandle<()>>, UblkError> {
    let (sender, started) = mpsc::channel();
    let mut threads = Vec::new();
    for queue in 0..device.dev_info.nr_hw_queues {
        for part in 0..control.io_threads_per_queue() {
            let (device, serve, sender) = (Arc::clone(device), serve.clone(), sender.clone());
            let thread = thread::Builder::new().name(format!("queue {queue}.{part}"));
            threads.push(thread.spawn(move || {
                set_io_thread_idx(part);
                // Nobody listens any more if a later thread could not be started.
                let _ = sender.send((queue, UblkCtrl::init_queue_thread()));
                drop(sender);
                if distrusted && let Err(error) = give_up_admin() {
                    log::warn!("the kernel may look for partitions: a thread keeps its privileges: {error}");
                }
                serve(queue, &device);
            })?);
        }
    }
    drop(sender);
    for (queue, thread) in started {
        // libublk is not told that the queue is configured, for it would then write a record of the device to /run.
        control.set_thread_affinity(queue, thread);
    }
    Ok(threads)
}

/// libublk's handle on a device that is there and is readied for its queues, and what that device is.
fn open_control(
    start: Start,
    layout: &Layout,
    name: &'static str,
    driver_node: &mut Control,
) -> Result<(UblkCtrl, Identity), DeviceError> {
    let features = driver_node.features();
    let wanted = u64::from(sys::UBLK_F_USER_RECOVERY | sys::UBLK_F_USER_RECOVERY_REISSUE);
    // Lets a worker be replaced without an error in between, where the driver (6.16) has it.
    let flags = wanted | features & u64::from(sys::UBLK_F_QUIESCE);
    let flags = if layout.partitions { flags } else { flags | features & NO_AUTO_PART_SCAN };
    let threads = if features & u64::from(sys::UBLK_F_PER_IO_DAEMON) == 0 { 1 } else { layout.threads };
    let (id, word, dev_flags) = match start {
        Start::Add(word) => (-1, word, UblkFlags::UBLK_DEV_F_ADD_DEV),
        Start::Recover(id, word) => {
            recover(driver_node, id, word)?;
            (id.cast_signed(), word, UblkFlags::UBLK_DEV_F_RECOVER_DEV)
        }
    };
    let control = UblkCtrlBuilder::default()
        .name(name)
        .id(id)
        .nr_queues(layout.queues)
        .depth(layout.depth)
        .io_threads_per_queue(threads)
        .io_buf_bytes(layout.max_io)
        .ctrl_flags(flags)
        .ctrl_target_flags(word.bits())
        .dev_flags(dev_flags)
        .build()
        .map_err(|error| match refused("add")(error) {
            DeviceError::Driver { source: UblkError::IOError(error), .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                DeviceError::TooMany
            }
            other => other,
        })?;
    // It would delete the device when dropped, by its number, whoever has that by then.
    control.disown();
    let id = control.dev_info().dev_id;
    Ok((control, Identity { id, word, server: None }))
}

fn recover(driver_node: &mut Control, id: u32, word: Word) -> Result<(), DeviceError> {
    let info = driver_node.info(id).map_err(|error| DeviceError::driver("look at", error))?;
    let info = info.filter(|info| info.ublksrv_flags == word.bits()).ok_or(DeviceError::Gone { id })?;
    recovery::start(driver_node, &info)
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
