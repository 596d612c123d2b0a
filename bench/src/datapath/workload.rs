//! What requests a measurement makes.

use std::fmt;
use std::str::FromStr;

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
    /// What is measured unless others are asked for.
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

/// Reads `PATTERN,KIB,DEPTH`, as in `randread,64,16`.
impl FromStr for Workload {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [pattern, kib, depth] = text.split(',').collect::<Vec<_>>()[..] else {
            return Err("not PATTERN,KIB,DEPTH");
        };
        let (random, write) = match pattern {
            "read" => (false, false),
            "write" => (false, true),
            "randread" => (true, false),
            "randwrite" => (true, true),
            _ => return Err("the pattern is read, write, randread or randwrite"),
        };
        let within = |kib: &u32| (4..=4096).contains(kib) && kib.is_multiple_of(4);
        let kib = kib.parse().ok().filter(within).ok_or("a request has 4 to 4096 KiB, a multiple of 4")?;
        let within = |depth: &u16| (1..=1024).contains(depth);
        let depth = depth.parse().ok().filter(within).ok_or("the depth is 1 to 1024")?;
        Ok(Self { write, random, block: kib << 10, depth })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_and_nonsense_is_not() {
        let deep = Workload { write: true, random: true, block: 64 << 10, depth: 1024 };
        assert_eq!("randwrite,64,1024".parse(), Ok(deep));
        assert_eq!("read,4,1".parse::<Workload>().unwrap().to_string(), "read 4K depth 1");
        for wrong in ["", "read", "read,4", "read,4,1,1", "mix,4,1", "read,6,1", "read,0,1", "read,8192,1"] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
        for wrong in ["read,4,0", "read,4,1025", "read,4,-1", "read,4,"] {
            assert!(wrong.parse::<Workload>().is_err(), "{wrong}");
        }
    }
}
