//! Counters and latency histograms, one set a thread of a queue, written by that thread and read by any.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::request::{IoError, OP_READ, OP_WRITE, Operation};

/// Buckets of a histogram: bucket n counts latencies below 2^n microseconds that no lower bucket counts.
pub const BUCKETS: usize = 32;

/// What one thread of a queue has served. Only that thread writes, so plain loads and stores are enough.
#[derive(Default)]
pub struct QueueStats {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    write_zeroes: AtomicU64,
    errors: AtomicU64,
    read_latency: [AtomicU64; BUCKETS],
    write_latency: [AtomicU64; BUCKETS],
}

impl QueueStats {
    /// Counts one request that ended after `latency`.
    pub(crate) fn count(&self, op_flags: u32, outcome: Result<Operation, IoError>, latency: Duration) {
        match outcome {
            Ok(Operation::Read(range)) => {
                add(&self.reads, 1);
                add(&self.read_bytes, range.bytes());
            }
            Ok(Operation::Write { range, .. }) => {
                add(&self.writes, 1);
                add(&self.write_bytes, range.bytes());
            }
            Ok(Operation::Flush) => add(&self.flushes, 1),
            Ok(Operation::Discard(_)) => add(&self.discards, 1),
            Ok(Operation::WriteZeroes { .. }) => add(&self.write_zeroes, 1),
            Err(_) => add(&self.errors, 1),
        }
        match op_flags & 0xff {
            OP_READ => add(&self.read_latency[bucket(latency)], 1),
            OP_WRITE => add(&self.write_latency[bucket(latency)], 1),
            _ => {}
        }
    }

    /// The figures of `queues` added up.
    pub fn snapshot(queues: &[QueueStats]) -> Snapshot {
        let sum = |field: fn(&QueueStats) -> &AtomicU64| queues.iter().map(|q| field(q).load(Relaxed)).sum();
        let histogram = |field: fn(&QueueStats) -> &[AtomicU64; BUCKETS]| {
            (0..BUCKETS).map(|n| queues.iter().map(|q| field(q)[n].load(Relaxed)).sum()).collect()
        };
        Snapshot {
            reads: sum(|q| &q.reads),
            read_bytes: sum(|q| &q.read_bytes),
            writes: sum(|q| &q.writes),
            write_bytes: sum(|q| &q.write_bytes),
            flushes: sum(|q| &q.flushes),
            discards: sum(|q| &q.discards),
            write_zeroes: sum(|q| &q.write_zeroes),
            errors: sum(|q| &q.errors),
            read_latency: histogram(|q| &q.read_latency),
            write_latency: histogram(|q| &q.write_latency),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

/// What a device has served since it was started, over all its queues.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Reads that succeeded.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Bytes that they wrote.
    pub write_bytes: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Discards that were passed down.
    pub discards: u64,
    /// Requests to write zeros that succeeded.
    pub write_zeroes: u64,
    /// Requests of any kind that failed.
    pub errors: u64,
    /// Latencies of reads: entry n counts those from 2^(n-1) up to 2^n microseconds, entry 0 those below 1.
    pub read_latency: Vec<u64>,
    /// Latencies of writes, likewise.
    pub write_latency: Vec<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_powers_of_two() {
        let cases = [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11), (u64::MAX, BUCKETS - 1)];
        for (micros, expected) in cases {
            assert_eq!(bucket(Duration::from_micros(micros)), expected, "{micros} us");
        }
    }

    #[test]
    fn a_snapshot_adds_queues_up() {
        let queues = [QueueStats::default(), QueueStats::default()];
        for queue in &queues {
            queue.count(2, Ok(Operation::Flush), Duration::ZERO);
            queue.count(OP_READ, Err(IoError::ShortTransfer), Duration::from_micros(5));
        }
        let snapshot = QueueStats::snapshot(&queues);
        assert_eq!((snapshot.flushes, snapshot.errors, snapshot.read_latency[3]), (2, 2, 2));
    }
}
