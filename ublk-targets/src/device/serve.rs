//! From the first control command to the last: a device is made or taken over, serves, and is deleted.

use std::panic;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use io_uring::{IoUring, squeue};
use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder, ublk_init_ctrl_task_ring};
use libublk::io::{UblkDev, io_thread_idx, set_io_thread_idx};
use libublk::{UblkError, UblkFlags, sys};

use super::{DeviceError, Layout, Owner, Running, Start, check_available, driver, ignore_absent};
use crate::queue;
use crate::request::{LBA_BYTES, Shape};
use crate::ring;
use crate::stats::QueueStats;
use crate::target::Target;

/// Entries of the ring for control commands, which come one at a time.
const CONTROL_ENTRIES: u32 = 4;
/// Bytes of zeros that one request may ask for, so that a tag is not busy with it for long.
const MAX_WRITE_ZEROES: u32 = 16 << 20;
/// Bytes that one discard may cover.
const MAX_DISCARD: u32 = 1 << 30;

/// Serves a device with `target` until somebody stops it with [`stop`](super::stop), then deletes it. `ready` runs once its
/// node takes requests.
///
/// The device stays, quiesced, if this process dies: a new one takes it over with [`Start::Recover`].
pub fn serve<T: Target>(
    start: Start,
    layout: &Layout,
    target: T,
    ready: impl FnOnce(Running),
) -> Result<(), DeviceError> {
    layout.check()?;
    check_available()?;
    // Aside: the kernel gives a thread that waits for a ring helpers, which wake every five seconds as long as it lives.
    let started = thread::scope(|scope| scope.spawn(|| Live::start(start, layout, target)).join());
    let (live, running) = started.unwrap_or_else(|panic| panic::resume_unwind(panic))?;
    // While rings can be made: `ready` may forbid it.
    let ring = ring::for_control(CONTROL_ENTRIES).map_err(|error| driver("control")(error.into()))?;
    ready(running);
    live.wait(ring)
}

/// A device whose node takes requests.
struct Live {
    control: UblkCtrl,
    device: Arc<UblkDev>,
    queues: Vec<JoinHandle<()>>,
}

impl Live {
    fn start<T: Target>(start: Start, layout: &Layout, target: T) -> Result<(Self, Running), DeviceError> {
        let control = open_control(start, layout, T::NAME)?;
        if matches!(start, Start::Recover(_)) {
            control.start_user_recover().map_err(driver("recover"))?;
        }
        let device = Arc::new(describe(&control, &target).map_err(driver("set up"))?);
        let threads = control.io_threads_per_queue();
        let stats: Arc<[_]> = (0..layout.queues * threads).map(|_| QueueStats::default()).collect();
        let running = Running { id: control.dev_info().dev_id, threads, stats: Arc::clone(&stats) };
        let (target, spin) = (Arc::new(target), Duration::from_micros(layout.spin_us.into()));
        let queues = start_queues(&control, &device, move |index, device| {
            let thread = usize::from(index * threads + io_thread_idx());
            queue::ublk::serve(index, device, spin, &*target, &stats[thread]);
        })
        .map_err(driver("start the queues of"))?;
        control.start_dev(&device).map_err(driver("start"))?;
        Ok((Self { control, device, queues }, running))
    }

    /// Waits until somebody has stopped the device, and deletes it.
    fn wait(self, ring: IoUring<squeue::Entry128>) -> Result<(), DeviceError> {
        for queue in self.queues {
            queue.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        }
        // Control commands go through a ring of the thread, and the first ones were another's.
        let give = |place: &mut Option<_>| {
            *place = Some(ring);
            Ok(())
        };
        ublk_init_ctrl_task_ring(give).map_err(driver("control"))?;
        // Whoever stopped it has done this, unless the driver did, for its own reasons.
        let _ = self.control.stop_dev();
        // The driver waits for the last descriptor of the device.
        drop(self.device);
        ignore_absent(self.control.del_dev()).map_err(driver("delete"))?;
        Ok(())
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
                serve(queue, &device);
            })?);
        }
    }
    drop(sender);
    for (queue, thread) in started {
        control.set_thread_affinity(queue, thread);
        control.configure_queue(device, queue, thread)?;
    }
    Ok(threads)
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
