//! A queue of a ublk device: requests come from the driver.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libublk::io::{UblkDev, UblkQueue};
use libublk::uring_async::{ublk_reap_io_events_with_update_queue, ublk_wake_task};
use libublk::{BufDesc, UblkError};
use smol::LocalExecutor;

use super::execute;
use crate::buffer::TagBuffer;
use crate::request::Descriptor;
use crate::ring;
use crate::stats::QueueStats;
use crate::target::Target;

/// Serves this thread's tags of queue `index` of `device` until the device is stopped. The thread looks for requests for
/// the time `spin` before it sleeps.
///
/// A queue that cannot go on ends the process: its supervisor starts another one, which recovers the device. To
/// return instead would leave requests without an answer, and buffers to operations that are still under way.
pub(crate) fn serve<T: Target>(index: u16, device: &UblkDev, spin: Duration, target: &T, stats: &QueueStats) {
    if let Err(error) = run(index, device, spin, target, stats) {
        give_up(index, device, &format!("failed: {error}"));
    }
}

fn give_up(index: u16, device: &UblkDev, why: &str) -> ! {
    log::error!("queue {index} of ublk device {} {why}", device.dev_info.dev_id);
    std::process::abort()
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
    ring::confine()?;
    // All buffers exist before the device starts, so that no request ever waits for memory.
    let buffers = queue
        .tags()
        .map(|_| TagBuffer::new(device.dev_info.max_io_buf_bytes as usize))
        .collect::<Result<Vec<_>, _>>()?;
    let executor = LocalExecutor::new();
    let tasks: Vec<_> = queue
        .tags()
        .zip(buffers)
        .map(|(tag, buffer)| {
            let queue = Rc::clone(&queue);
            executor.spawn(async move {
                if let Err(answer) = serve_tag(&queue, tag, buffer, target, stats).await {
                    give_up(index, device, &format!("cannot go on with tag {tag}: {answer}"));
                }
            })
        })
        .collect();
    device.notify_buffer_registration_complete(false);
    turn(&queue, spin, || while executor.try_tick() {}, || tasks.iter().all(|task| task.is_finished()))
}

/// Hands over what tasks have queued, waits for ends of operations, and wakes the tasks that waited for them, until all
/// tasks have ended: each that has not has an operation under way.
fn turn(
    queue: &UblkQueue<'_>,
    spin: Duration,
    run_tasks: impl Fn(),
    is_done: impl Fn() -> bool,
) -> Result<(), UblkError> {
    let mut last_end = Instant::now();
    run_tasks();
    while !is_done() {
        let sleep = spin.is_zero() || last_end.elapsed() > spin;
        if !sleep {
            std::hint::spin_loop();
        }
        ring::enter(usize::from(sleep))?;
        ublk_reap_io_events_with_update_queue(queue, false, None, |entry| {
            ublk_wake_task(entry.user_data(), entry);
            if !spin.is_zero() {
                last_end = Instant::now();
            }
        })?;
        run_tasks();
    }
    Ok(())
}

/// One tag: fetch a request, execute it, commit its result and fetch the next, until the queue goes down. Fails with what
/// the driver answered where that is neither.
async fn serve_tag<T: Target>(
    queue: &UblkQueue<'_>,
    tag: u16,
    mut buffer: TagBuffer,
    target: &T,
    stats: &QueueStats,
) -> Result<(), UblkError> {
    let address = buffer.address();
    let data = || BufDesc::RawAddress(address as *const u8);
    let mut fetched = queue.submit_io_prep_cmd(tag, data(), 0, None).await;
    while is_request(fetched)? {
        let iod = queue.get_iod(tag);
        let raw = Descriptor { op_flags: iod.op_flags, count: iod.nr_sectors, first: iod.start_sector };
        let result = execute(target, raw, buffer.bytes_mut(), stats).await;
        fetched = queue.submit_io_commit_cmd(tag, data(), result).await;
    }
    Ok(())
}

/// Whether the end of a fetch means that a new request stands in the tag's descriptor, or that the queue is down. After any
/// other answer the descriptor is the last request's, and its buffer may hold ciphertext: to go on would run it again.
fn is_request(fetched: Result<i32, UblkError>) -> Result<bool, UblkError> {
    match fetched {
        Ok(0) => Ok(true),
        Ok(answer) => Err(UblkError::IOError(io::Error::from_raw_os_error(answer.saturating_neg()))),
        Err(UblkError::QueueIsDown) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_is_a_request_and_only_a_queue_that_is_down_ends_well() {
        assert!(is_request(Ok(0)).unwrap());
        assert!(!is_request(Err(UblkError::QueueIsDown)).unwrap());
        for errno in [libc::EINVAL, libc::EBUSY, libc::ENOMEM, libc::ECANCELED, libc::EINTR, libc::EAGAIN] {
            let error = is_request(Ok(-errno)).unwrap_err();
            assert!(matches!(&error, UblkError::IOError(e) if e.raw_os_error() == Some(errno)), "{error:?}");
        }
        // UBLK_IO_RES_NEED_GET_DATA of linux/ublk_cmd.h: the driver asks for a step that is not taken here.
        assert!(is_request(Ok(1)).is_err());
        assert!(is_request(Ok(i32::MIN)).is_err());
        assert!(is_request(Err(UblkError::OtherError(-libc::EPERM))).is_err());
    }
}
