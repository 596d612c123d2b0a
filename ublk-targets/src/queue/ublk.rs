//! A queue of a ublk device: requests come from the driver.

use libublk::BufDesc;
use libublk::UblkError;
use libublk::io::{UblkDev, UblkQueue};
use smol::LocalExecutor;
use std::rc::Rc;

use super::{execute, ring};
use crate::buffer::TagBuffer;
use crate::request::Descriptor;
use crate::stats::QueueStats;
use crate::target::Target;

/// Serves queue `index` of `device` until the device is stopped. Runs on the queue's own thread.
///
/// A queue that cannot go on ends the process: its supervisor starts another one, which recovers the device. To
/// return instead would leave requests without an answer, and buffers to operations that are still under way.
pub(crate) fn serve<T: Target>(index: u16, device: &UblkDev, target: &T, stats: &QueueStats) {
    if let Err(error) = run(index, device, target, stats) {
        log::error!("queue {index} of ublk device {} failed: {error}", device.dev_info.dev_id);
        std::process::abort();
    }
}

fn run<T: Target>(index: u16, device: &UblkDev, target: &T, stats: &QueueStats) -> Result<(), UblkError> {
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
    smol::block_on(libublk::wait_and_handle_io_events(
        &queue,
        None,
        || while executor.try_tick() {},
        || tasks.iter().all(|task| task.is_finished()),
    ))
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
