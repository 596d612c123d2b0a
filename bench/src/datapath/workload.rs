//! What requests a measurement makes.

use std::fmt;
use std::str::FromStr;

/// The largest request: what the largest tag buffer takes.
const MAX_BLOCK: u32 = 1 << 20;
/// The most requests under way at once.
const MAX_DEPTH: u16 = 1024;

/// One kind of request, and how many of them are under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Reads among 100 requests; the others are writes.
    pub reads: u8,
    /// Anywhere in the file, or one after the other.
    pub random: bool,
    /// Bytes of a request.
    pub block: u32,
    /// Requests under way at once.
    pub depth: u16,
}

impl Workload {
    /// What is measured unless others are asked for.
    pub const ALL: [Self; 6] = [
        Self { reads: 100, random: false, block: 128 << 10, depth: 8 },
        Self { reads: 0, random: false, block: 128 << 10, depth: 8 },
        Self { reads: 100, random: true, block: 4 << 10, depth: 32 },
        Self { reads: 0, random: true, block: 4 << 10, depth: 32 },
        Self { reads: 100, random: true, block: 4 << 10, depth: 1 },
        Self { reads: 0, random: true, block: 4 << 10, depth: 1 },
    ];

    /// Whether request `number` of them writes: reads and writes alternate as evenly as they can.
    pub(super) fn writes(&self, number: u64) -> bool {
        let reads = u64::from(self.reads);
        (number % 100) * reads % 100 >= reads
    }

    /// Offset in bytes, within a file of `size` bytes, of the request after `served` others; `random` is any number.
    pub(super) fn offset(&self, served: u64, random: u64, size: u64) -> u64 {
        let block = u64::from(self.block);
        (if self.random { random } else { served }) % (size / block) * block
    }
}

/// As fio names patterns, `rw` being half reads and `rw70` 70 reads among 100 requests.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let random = if self.random { "rand" } else { "" };
        let op = match self.reads {
            100 => "read".to_owned(),
            0 => "write".to_owned(),
            50 => "rw".to_owned(),
            reads => format!("rw{reads}"),
        };
        let block = match self.block {
            block if block.is_multiple_of(1 << 10) => format!("{}K", block >> 10),
            block => block.to_string(),
        };
        f.pad(&format!("{random}{op} {block} depth {}", self.depth))
    }
}

/// The text is no workload.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// It has not three parts.
    #[error("a workload is PATTERN:BLOCK:DEPTH, as randread:4K:32")]
    Form,
    /// The first part.
    #[error(
        "pattern \"{0}\" is none of read, write, rw, rwN (N reads among 100), or rand before one of these"
    )]
    Pattern(String),
    /// The second part.
    #[error("block \"{0}\" is not a multiple of 512 bytes up to 1M")]
    Block(String),
    /// The third part.
    #[error("depth \"{0}\" is not 1 to {MAX_DEPTH}")]
    Depth(String),
}

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let parts: Vec<&str> = text.split(':').collect();
        let [pattern, block, depth] = parts[..] else { return Err(WorkloadError::Form) };
        let (random, op) = match pattern.strip_prefix("rand") {
            Some(op) => (true, op),
            None => (false, pattern),
        };
        Ok(Self {
            reads: reads(op).ok_or_else(|| WorkloadError::Pattern(pattern.into()))?,
            random,
            block: bytes(block)
                .filter(|bytes| (1..=MAX_BLOCK).contains(bytes) && bytes.is_multiple_of(512))
                .ok_or_else(|| WorkloadError::Block(block.into()))?,
            depth: depth
                .parse()
                .ok()
                .filter(|depth| (1..=MAX_DEPTH).contains(depth))
                .ok_or_else(|| WorkloadError::Depth(depth.into()))?,
        })
    }
}

fn reads(op: &str) -> Option<u8> {
    match op {
        "read" => Some(100),
        "write" => Some(0),
        "rw" => Some(50),
        _ => op.strip_prefix("rw")?.parse().ok().filter(|reads| (1..100).contains(reads)),
    }
}

fn bytes(text: &str) -> Option<u32> {
    let (number, shift) = match text.strip_suffix(['K', 'k', 'M', 'm']) {
        Some(number) if text.ends_with(['M', 'm']) => (number, 20),
        Some(number) => (number, 10),
        None => (text, 0),
    };
    number.parse::<u32>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_as_they_are_asked_for() {
        let read = |text: &str| text.parse::<Workload>().map(|workload| workload.to_string());
        assert_eq!(read("randread:4K:32").as_deref(), Ok("randread 4K depth 32"));
        assert_eq!(read("write:1M:8").as_deref(), Ok("write 1024K depth 8"));
        assert_eq!(read("randrw70:512:1024").as_deref(), Ok("randrw70 512 depth 1024"));
        assert_eq!(read("rw:64k:1").as_deref(), Ok("rw 64K depth 1"));
    }

    #[test]
    fn what_is_no_workload_is_refused() {
        for (wrong, part) in [
            ("read:4K", "PATTERN:BLOCK:DEPTH"),
            ("read:4K:1:1", "PATTERN:BLOCK:DEPTH"),
            ("reed:4K:1", "\"reed\""),
            ("rw0:4K:1", "\"rw0\""),
            ("rw100:4K:1", "\"rw100\""),
            ("read:0:1", "\"0\""),
            ("read:100:1", "\"100\""),
            ("read:2M:1", "\"2M\""),
            ("read:4194304K:1", "\"4194304K\""),
            ("read:4K:0", "\"0\""),
            ("read:4K:1025", "\"1025\""),
        ] {
            let error = wrong.parse::<Workload>().unwrap_err().to_string();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_mix_has_the_reads_it_says() {
        for reads in [0, 1, 33, 50, 70, 99, 100] {
            let workload = Workload { reads, ..Workload::ALL[0] };
            let writes = (0..1000).filter(|&number| workload.writes(number)).count();
            assert_eq!(writes, 1000 - 10 * usize::from(reads));
        }
    }
}
