//! The queue thread's own ring: where a tag's task hands an operation to the kernel and waits for its end.

use io_uring::{IoUring, squeue};
use libublk::UblkUringData;
use libublk::io::ublk_init_task_ring;
use libublk::uring_async::{ublk_reap_events_with_handler, ublk_submit_sqe_async, ublk_wake_task};
use std::cell::RefCell;
use std::io;
use std::os::fd::RawFd;

use crate::request::IoError;

/// Index of the backing among a ring's registered files. Index 0 is the ublk character device.
pub(crate) const BACKING_FILE: u32 = 1;

/// Hands `entry` to this thread's ring and waits for it. Answers what the kernel answered, 0 or more.
///
/// # Safety
/// All memory that `entry` names must stay valid until the answer, also when the returned future is dropped before:
/// a queue runs each of its tasks to the end, or ends the process.
pub(crate) async unsafe fn submit(entry: squeue::Entry) -> Result<u32, IoError> {
    loop {
        let answer = ublk_submit_sqe_async(entry.clone(), UblkUringData::Target as u64)
            .await
            .map_err(|_| IoError::Backing(libc::EIO))?;
        match u32::try_from(answer) {
            Ok(done) => return Ok(done),
            // Neither means that the operation failed: it was not tried to its end.
            Err(_) if answer == -libc::EINTR || answer == -libc::EAGAIN => {}
            Err(_) => return Err(IoError::Backing(-answer)),
        }
    }
}

/// Gives this thread its ring, with room for one operation of each of `depth` tags.
///
/// Completions are delivered when the thread waits for them, not by interrupting it (io_uring_setup(2),
/// IORING_SETUP_DEFER_TASKRUN), where the kernel (6.1) has that. A thread that looks for them without waiting gets them by
/// IORING_SETUP_TASKRUN_FLAG.
pub(super) fn set_up(depth: u16) -> io::Result<()> {
    let entries = u32::from(depth);
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries)
        .or_else(|_| IoUring::builder().setup_coop_taskrun().setup_taskrun_flag().build(entries))?;
    ublk_init_task_ring(|cell| {
        cell.set(RefCell::new(ring)).map_err(|_| libublk::UblkError::OtherError(-libc::EBUSY))
    })
    .map_err(|_| io::Error::from(io::ErrorKind::ResourceBusy))
}

/// Registers `files` with this thread's ring, from index 0.
pub(super) fn register(files: &[RawFd]) -> io::Result<()> {
    libublk::io::with_task_io_ring(|ring| ring.submitter().register_files(files))
}

/// Hands over what tasks have queued, and waits until `ends` operations have ended, or a signal came.
pub(super) fn enter(ends: usize) -> io::Result<()> {
    match libublk::io::with_task_io_ring(|ring| ring.submit_and_wait(ends)) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Hands over what tasks have queued, waits for one end at least, and wakes the tasks that waited for it.
pub(super) fn turn() -> io::Result<()> {
    enter(1)?;
    libublk::io::with_task_io_ring_mut(|ring| {
        ublk_reap_events_with_handler(ring, |entry| ublk_wake_task(entry.user_data(), entry))
            .map(|_| ())
            .map_err(|error| io::Error::other(error.to_string()))
    })
}
