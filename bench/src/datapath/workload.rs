//! What requests a measurement makes.

use std::fmt;

/// One kind of request, and how many of them are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Writes, or reads.
    pub write: bool,
    /// Anywhere in the file, or one after the other.
    pub random: bool,
    /// Bytes of a request.
    pub block: u32,
    /// Requests under way at once.
    pub depth: u16,
}

impl Workload {
    /// Every workload of the measurement.
    pub const ALL: [Self; 6] = [
        Self { write: false, random: false, block: 128 << 10, depth: 8 },
        Self { write: true, random: false, block: 128 << 10, depth: 8 },
        Self { write: false, random: true, block: 4 << 10, depth: 32 },
        Self { write: true, random: true, block: 4 << 10, depth: 32 },
        Self { write: false, random: true, block: 4 << 10, depth: 1 },
        Self { write: true, random: true, block: 4 << 10, depth: 1 },
    ];
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (random, op) = (if self.random { "rand" } else { "" }, if self.write { "write" } else { "read" });
        f.pad(&format!("{random}{op} {}K depth {}", self.block >> 10, self.depth))
    }
}
