//! Operations on the backing, one try each.

use std::future::Future;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::{BACKING_FILE, FIXED_FILE, submit};

/// One try of each operation on the backing. The answer is the kernel's: bytes that were moved, 0, or -errno.
///
/// [`Uring`] serves devices. Tests put something in its place that fails on purpose.
pub trait Io: Send + Sync + 'static {
    /// Reads from `offset` into `data`, perhaps less than all of it.
    fn read(&self, offset: u64, data: &mut [u8]) -> impl Future<Output = i32>;

    /// Writes `data` from `offset`, perhaps less than all of it. `durable`: what was written is on stable storage then.
    fn write(&self, offset: u64, data: &[u8], durable: bool) -> impl Future<Output = i32>;

    /// Brings everything that was written to stable storage.
    fn sync(&self) -> impl Future<Output = i32>;

    /// Tells a block device that `bytes` bytes from `offset` are no longer needed.
    fn discard(&self, offset: u64, bytes: u64) -> impl Future<Output = i32>;

    /// Gives `bytes` bytes of a file from `offset` back to its file system; they read as zeros.
    fn punch_hole(&self, offset: u64, bytes: u64) -> impl Future<Output = i32>;

    /// Lets `time` pass, while other tags of the queue go on.
    fn pause(&self, time: Duration) -> impl Future<Output = ()>;
}

/// The ring of the thread that asks.
pub struct Uring;

impl Io for Uring {
    async fn read(&self, offset: u64, data: &mut [u8]) -> i32 {
        let entry = opcode::Read::new(types::Fixed(BACKING_FILE), data.as_mut_ptr(), length_of(data))
            .offset(offset)
            .build();
        // SAFETY: `data` is borrowed until the answer.
        unsafe { submit(entry) }.await
    }

    async fn write(&self, offset: u64, data: &[u8], durable: bool) -> i32 {
        let entry = opcode::Write::new(types::Fixed(BACKING_FILE), data.as_ptr(), length_of(data))
            .offset(offset)
            .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
            .build();
        // SAFETY: `data` is borrowed until the answer.
        unsafe { submit(entry) }.await
    }

    async fn sync(&self) -> i32 {
        let entry = opcode::Fsync::new(types::Fixed(BACKING_FILE)).flags(types::FsyncFlags::DATASYNC).build();
        // SAFETY: the entry names no memory.
        unsafe { submit(entry) }.await
    }

    async fn discard(&self, offset: u64, bytes: u64) -> i32 {
        // _IO(0x12, 0) of linux/blkdev.h; it takes the offset in `addr`, the length where `cmd` starts.
        const BLOCK_URING_CMD_DISCARD: u32 = 0x12 << 8;
        let mut length = [0; 16];
        length[..8].copy_from_slice(&bytes.to_ne_bytes());
        let entry = opcode::UringCmd16::new(types::Fixed(BACKING_FILE), BLOCK_URING_CMD_DISCARD)
            .addr(Some(offset))
            .cmd(length)
            .build()
            // From a context that may block: without waiting, a device that lacks REQ_NOWAIT (some device-mapper
            // targets) refuses as if it had no discard.
            .flags(squeue::Flags::ASYNC);
        // SAFETY: the entry names no memory.
        unsafe { submit(entry) }.await
    }

    async fn punch_hole(&self, offset: u64, bytes: u64) -> i32 {
        let entry = opcode::Fallocate::new(types::Fixed(BACKING_FILE), bytes)
            .offset(offset)
            .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
            .build();
        // SAFETY: the entry names no memory.
        unsafe { submit(entry) }.await
    }

    async fn pause(&self, time: Duration) {
        let time = types::Timespec::from(time);
        // It has no file, but a confined ring takes nothing without this flag.
        let entry = opcode::Timeout::new(&time).build().flags(FIXED_FILE);
        // SAFETY: `time` lives until the answer.
        unsafe { submit(entry) }.await;
    }
}

fn length_of(data: &[u8]) -> u32 {
    // The kernel moves less than 2 GiB at once; what is left is moved by the caller's next try.
    data.len().min(1 << 30) as u32
}
