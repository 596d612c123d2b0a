//! What a target, or the cipher alone, does in a while.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use ublk_targets::cipher::Cipher;
use ublk_targets::queue::inprocess::{Source, serve};
use ublk_targets::request::{Descriptor, LBA_BYTES};
use ublk_targets::target::Target;

use super::{Result, Workload};

/// Gives out requests until its time is over.
struct Load {
    workload: Workload,
    /// Bytes that the target has.
    size: u64,
    end: Instant,
    served: Cell<u64>,
    state: Cell<u64>,
    failed: Cell<i32>,
}

impl Load {
    /// xorshift64: cheap next to a request.
    fn random(&self) -> u64 {
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        state
    }
}

impl Source for Load {
    fn next(&self, _: u16, buffer: &mut [u8]) -> Option<Descriptor> {
        let served = self.served.get();
        if served < self.workload.depth.into() {
            // The first of its tag. Memory that was never written is one page of zeros, whatever its size, which is written
            // to a backing faster than data.
            buffer.fill(0x5a);
        }
        if served.is_multiple_of(64) && Instant::now() >= self.end {
            return None;
        }
        self.served.set(served + 1);
        let offset = self.workload.offset(served, self.random(), self.size);
        Some(Descriptor {
            op_flags: u32::from(self.workload.writes(served)),
            count: self.workload.block / LBA_BYTES as u32,
            first: offset / LBA_BYTES,
        })
    }

    fn done(&self, _: u16, _: Descriptor, result: i32, _: &[u8]) {
        if result < 0 {
            self.failed.set(result);
        }
    }
}

/// How fast requests were served in a while, and at what cost.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// Requests a second.
    pub rate: f64,
    /// Seconds of processor time a request, of all of this process's threads.
    pub cpu: f64,
}

/// A while, from its begin.
struct Stretch {
    start: Instant,
    cpu: Duration,
}

impl Stretch {
    fn begin() -> io::Result<Self> {
        Ok(Self { start: Instant::now(), cpu: processor_time()? })
    }

    fn end(&self, served: u64) -> io::Result<Done> {
        let cpu = processor_time()? - self.cpu;
        let served = served as f64;
        Ok(Done { rate: served / self.start.elapsed().as_secs_f64(), cpu: cpu.as_secs_f64() / served })
    }
}

/// With that of io_uring's threads in the kernel, which are threads of this process.
fn processor_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Has `target` serve `workload` for some seconds.
pub(super) fn of_target<T: Target>(target: &T, workload: Workload, seconds: f64) -> Result<Done> {
    let size = target.shape().sectors * LBA_BYTES;
    let measured = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let stretch = Stretch::begin()?;
            let load = Load {
                workload,
                size,
                end: stretch.start + Duration::from_secs_f64(seconds),
                served: Cell::new(0),
                state: Cell::new(0x9e37_79b9_7f4a_7c15),
                failed: Cell::new(0),
            };
            serve(target, workload.depth, workload.block as usize, &load)?;
            match load.failed.get() {
                0 => stretch.end(load.served.get()),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            }
        });
        run.join()
    });
    measured.map_err(|_| "a measuring thread panicked")?.map_err(Into::into)
}

/// Has the cipher alone do what `workload` asks of it, over buffers as many as there are tags.
pub(super) fn of_cipher(cipher: &Cipher, workload: Workload, seconds: f64) -> Result<Done> {
    let mut buffers = vec![vec![0u8; workload.block as usize]; usize::from(workload.depth)];
    let stretch = Stretch::begin()?;
    let mut served = 0u64;
    while stretch.start.elapsed().as_secs_f64() < seconds {
        for buffer in &mut buffers {
            let first = served * u64::from(workload.block) / LBA_BYTES;
            if workload.writes(served) {
                cipher.encrypt(first, buffer)
            } else {
                cipher.decrypt(first, buffer)
            }
            served += 1;
        }
    }
    Ok(stretch.end(served)?)
}
