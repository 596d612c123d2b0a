//! The buffers that requests come in.

/// Whether a request's bytes are in the processor's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temperature {
    /// The same buffer each time.
    Hot,
    /// Buffers all over a memory that is larger than the caches.
    Cold,
}

/// Bytes that are larger than any last-level cache that one core can fill.
const COLD_BYTES: usize = 256 << 20;

/// An endless sequence of page-aligned request buffers.
pub struct Requests {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
    count: usize,
    next: usize,
}

impl Requests {
    /// Requests of `bytes` bytes each.
    pub fn new(temperature: Temperature, bytes: usize) -> Self {
        let count = match temperature {
            Temperature::Hot => 1,
            Temperature::Cold => COLD_BYTES / bytes,
        };
        // Written once, so that no page is first touched during a measurement.
        let memory = vec![0x5A; count * bytes + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, bytes, count, next: 0 }
    }

    /// The next request's buffer: not a neighbour of the one before, so that no prefetch reaches from one into the
    /// next.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend its items")]
    pub fn next(&mut self) -> &mut [u8] {
        // An odd step comes by every buffer, for their count is a power of two.
        self.next = (self.next + self.count / 2 + 3) % self.count;
        let at = self.start + self.next * self.bytes;
        &mut self.memory[at..][..self.bytes]
    }
}
