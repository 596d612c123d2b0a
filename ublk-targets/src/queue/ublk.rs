//! A queue of a ublk device: requests come from the driver.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::squeue;
use libublk::io::{UblkDev, UblkQueue};
use libublk::uring_async::{
    run_uring_tasks, ublk_reap_io_events_with_update_queue, ublk_wake_task, uring_poll_io_fn,
};
use libublk::{BufDesc, UblkError};
use smol::LocalExecutor;

use super::{execute, ring};
use crate::buffer::TagBuffer;
use crate::request::Descriptor;
use crate::stats::QueueStats;
use crate::target::Target;

/// Serves this thread's tags of queue `index` of `device` until the device is stopped. The thread looks for requests for
/// the time `spin` before it sleeps.
///
/// A queue that cannot go on ends the process: its supervisor starts another one, which recovers the device. To
/// return instead would leave requests without an answer, and buffers to operations that are still under way.
pub(crate) fn serve<T: Target>(index: u16, device: &UblkDev, spin: Duration, target: &T, stats: &QueueStats) {
    if let Err(error) = run(index, device, spin, target, stats) {
        log::error!("queue {index} of ublk device {} failed: {error}", device.dev_info.dev_id);
        std::process::abort();
    }
}

fn run<T: Target>(
    index: u16,
    device: &UblkDev,
    spin: Duration,
    target: &T,
    stats: &QueueStats,
) -> Result<(), UblkError> {
    ring::set_up(device.dev_info.queue_depth)?;
    let queue = Rc::new(UblkQueue::new(index, device)?);
    // All buffers exist before the device starts, so that no request ever waits for memory.
    let buffers = queue
        .tags()
        .map(|_| TagBuffer::new(device.dev_info.max_io_buf_bytes as usize))
        .collect::<Result<Vec<_>, _>>()?;
    let executor = LocalExecutor::new();
    let tasks: Vec<_> = queue
        .tags()
        .zip(buffers)
        .map(|(tag, buffer)| executor.spawn(serve_tag(Rc::clone(&queue), tag, buffer, target, stats)))
        .collect();
    device.notify_buffer_registration_complete(false);
    smol::block_on(turn(
        &queue,
        spin,
        || while executor.try_tick() {},
        || tasks.iter().all(|task| task.is_finished()),
    ))
}

/// Hands over what tasks have queued, waits for ends of operations, and wakes the tasks that waited for them, until the
/// queue is down.
async fn turn(
    queue: &UblkQueue<'_>,
    spin: Duration,
    run_tasks: impl Fn(),
    is_done: impl Fn() -> bool,
) -> Result<(), UblkError> {
    let last_end = Cell::new(Instant::now());
    let poll = || async {
        let sleep = spin.is_zero() || last_end.get().elapsed() > spin;
        if !sleep {
            std::hint::spin_loop();
        }
        uring_poll_io_fn::<squeue::Entry>(queue, None, usize::from(sleep))
    };
    let reap = |timed_out| {
        ublk_reap_io_events_with_update_queue(queue, timed_out, None, |entry| {
            ublk_wake_task(entry.user_data(), entry);
            if !spin.is_zero() {
                last_end.set(Instant::now());
            }
        })
    };
    run_uring_tasks(poll, reap, run_tasks, is_done).await
}

/// One tag: fetch a request, execute it, commit its result and fetch the next, until the queue goes down.
async fn serve_tag<T: Target>(
    queue: Rc<UblkQueue<'_>>,
    tag: u16,
    mut buffer: TagBuffer,
    target: &T,
    stats: &QueueStats,
) {
    let address = buffer.address();
    let mut fetched = queue.submit_io_prep_cmd(tag, BufDesc::RawAddress(address as *const u8), 0, None).await;
    while fetched.is_ok() {
        let iod = queue.get_iod(tag);
        let raw = Descriptor { op_flags: iod.op_flags, count: iod.nr_sectors, first: iod.start_sector };
        let result = execute(target, raw, buffer.bytes_mut(), stats).await;
        fetched = queue.submit_io_commit_cmd(tag, BufDesc::RawAddress(address as *const u8), result).await;
    }
    if let Err(error) = fetched
        && !matches!(error, UblkError::QueueIsDown)
    {
        log::error!("tag {tag} of queue {} ends: {error}", queue.get_qid());
    }
}
