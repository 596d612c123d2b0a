//! The queue thread's own ring: where a tag's task hands an operation to the kernel and waits for its end.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the thread's ring: made, confined, driven |
//! | [`io`](Io) | operations on the backing: the seam where tests put faults |
//!
//! A system call filter does not see what a ring does, so the ring itself is told what it may: the operations below, on its
//! registered files only.

mod io;

pub use io::{Io, Uring};

use std::cell::RefCell;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::RawFd;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};
use libublk::UblkUringData;
use libublk::io::{ublk_init_task_ring, with_task_io_ring, with_task_io_ring_mut};
use libublk::uring_async::{ublk_reap_events_with_handler, ublk_submit_sqe_async, ublk_wake_task};

/// Index of the backing among a ring's registered files. Index 0 is the ublk character device.
const BACKING_FILE: u32 = 1;

/// What a queue's ring may be asked for: I/O on the backing, a pause, and the commands of ublk and of block devices.
const OPERATIONS: [u8; 6] = [
    opcode::Read::CODE,
    opcode::Write::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
    opcode::Timeout::CODE,
    opcode::UringCmd16::CODE,
];
/// The one thing that may still be changed of a ring: its files go at its end (linux/io_uring.h, IORING_UNREGISTER_FILES).
pub const UNREGISTER_FILES: u8 = 3;
/// The operation names a file by its index among the ring's own.
const FIXED_FILE: squeue::Flags = squeue::Flags::FIXED_FILE;

/// Gives this thread its ring, with room for one operation of each of `depth` tags. It does nothing before it is
/// [confined](confine).
///
/// Completions are delivered when the thread waits for them, not by interrupting it (io_uring_setup(2),
/// IORING_SETUP_DEFER_TASKRUN), where the kernel (6.1) has that. A thread that looks for them without waiting gets them by
/// IORING_SETUP_TASKRUN_FLAG.
pub(crate) fn set_up(depth: u16) -> Result<()> {
    let entries = u32::from(depth);
    let ring = IoUring::builder()
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries)
        .or_else(|_| {
            IoUring::builder().setup_r_disabled().setup_coop_taskrun().setup_taskrun_flag().build(entries)
        })?;
    ublk_init_task_ring(|cell| {
        cell.set(RefCell::new(ring)).map_err(|_| libublk::UblkError::OtherError(-libc::EBUSY))
    })
    .map_err(|_| ErrorKind::ResourceBusy.into())
}

/// Registers `files` with this thread's ring, from index 0.
pub(crate) fn register(files: &[RawFd]) -> Result<()> {
    with_task_io_ring(|ring| ring.submitter().register_files(files))
}

/// Starts this thread's ring, which from now on carries out [`OPERATIONS`] on the files that are registered with it, and
/// nothing else.
pub(crate) fn confine() -> Result<()> {
    let mut allowed: Vec<_> = OPERATIONS.into_iter().map(Restriction::sqe_op).collect();
    allowed.push(Restriction::register_op(UNREGISTER_FILES));
    allowed.push(Restriction::sqe_flags_required(FIXED_FILE.bits()));
    allowed.push(Restriction::sqe_flags_allowed((FIXED_FILE | squeue::Flags::ASYNC).bits()));
    with_task_io_ring(|ring| {
        ring.submitter().register_restrictions(&mut allowed)?;
        ring.submitter().register_enable_rings()
    })
}

/// A ring of `entries` for ublk's control commands, which carries out nothing else.
pub(crate) fn for_control(entries: u32) -> Result<IoUring<squeue::Entry128>> {
    let ring = IoUring::builder().setup_r_disabled().build(entries)?;
    ring.submitter().register_restrictions(&mut [Restriction::sqe_op(opcode::UringCmd80::CODE)])?;
    ring.submitter().register_enable_rings()?;
    Ok(ring)
}

/// Hands over what tasks have queued, and waits until `ends` operations have ended, or a signal came.
pub(crate) fn enter(ends: usize) -> Result<()> {
    match with_task_io_ring(|ring| ring.submit_and_wait(ends)) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Hands over what tasks have queued, waits for one end at least, and wakes the tasks that waited for it.
pub(crate) fn turn() -> Result<()> {
    enter(1)?;
    with_task_io_ring_mut(|ring| {
        ublk_reap_events_with_handler(ring, |entry| ublk_wake_task(entry.user_data(), entry))
            .map(|_| ())
            .map_err(|error| Error::other(error.to_string()))
    })
}

/// Hands `entry` to this thread's ring and waits for it. Answers what the kernel answered: 0 or more, or -errno.
///
/// A future that is dropped before ends the process: the kernel may write to the memory of an operation until its end.
///
/// # Safety
/// All memory that `entry` names is valid until the answer.
async unsafe fn submit(entry: squeue::Entry) -> i32 {
    let under_way = UnderWay;
    let answer = ublk_submit_sqe_async(entry, UblkUringData::Target as u64).await;
    std::mem::forget(under_way);
    answer.unwrap_or(-libc::EIO)
}

/// Aborts when dropped.
struct UnderWay;

impl Drop for UnderWay {
    fn drop(&mut self) {
        log::error!("an operation was given up while the kernel carries it out");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests;
