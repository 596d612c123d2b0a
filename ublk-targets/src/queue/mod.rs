//! A hardware queue: one thread, one ring, and for each tag one task with one buffer.
//!
//! `ublk` takes requests from the driver, [`inprocess`] from a function in this process. Both run the same
//! `execute`, so what is tested without a kernel module is what serves a device.

pub mod inprocess;
pub(crate) mod ublk;

use std::time::Instant;

use crate::request::{Descriptor, IoError, Operation};
use crate::stats::QueueStats;
use crate::target::Target;

/// Serves one request: parse, do, count, answer. The single exit of every request: bytes moved, or -errno.
async fn execute<T: Target>(target: &T, raw: Descriptor, buffer: &mut [u8], stats: &QueueStats) -> i32 {
    let start = Instant::now();
    let outcome = match Operation::parse(raw, target.shape(), buffer.len()) {
        Ok(operation) => target.execute(operation, buffer).await.map(|()| operation),
        Err(error) => Err(error),
    };
    stats.count(raw.op_flags, outcome, start.elapsed());
    answer(outcome)
}

fn answer(outcome: Result<Operation, IoError>) -> i32 {
    match outcome {
        // At most a tag's buffer, which is far below 2 GiB.
        Ok(operation) => operation.answer().cast_signed(),
        Err(error) => -error.errno(),
    }
}
