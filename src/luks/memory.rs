//! How much memory there is to derive a key from a passphrase with. What is taken beyond that has the kernel kill processes,
//! and which ones is its choice.

use std::fs;
use std::path::Path;

use super::LuksError;

/// Refuses what takes `needed` bytes where that is more than a derivation may have.
pub(super) fn check(path: &Path, needed: u64) -> Result<(), LuksError> {
    check_within(path, needed, available())
}

/// Bytes that a derivation may have: half of what is available.
pub(super) fn share() -> u64 {
    available() / 2
}

fn check_within(path: &Path, needed: u64, available: u64) -> Result<(), LuksError> {
    match needed > available / 2 {
        true => Err(LuksError::Cost { path: path.to_owned(), needed, available }),
        false => Ok(()),
    }
}

/// What the kernel estimates that can be had without swapping (proc(5), `MemAvailable`), in bytes. Where it does not tell,
/// nothing is refused.
fn available() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse(&text)).unwrap_or(u64::MAX)
}

fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read_and_half_of_it_may_be_used() {
        let text = "MemTotal:        2000000 kB\nMemFree:          100 kB\nMemAvailable:    1048576 kB\n";
        assert_eq!(parse(text), Some(1 << 30));
        assert!(["", "MemAvailable: 5\n", "MemAvailable: x kB\n"].iter().all(|text| parse(text).is_none()));
        let path = Path::new("/srv/disk");
        check_within(path, 512 << 20, 1 << 30).unwrap();
        let error = check_within(path, (512 << 20) + 1, 1 << 30).unwrap_err().to_string();
        assert!(
            ["/srv/disk", "536870913", "1073741824"].iter().all(|number| error.contains(number)),
            "{error}"
        );
        assert!(available() > 0 && available() < u64::MAX);
    }
}
