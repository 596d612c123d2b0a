//! Looks for bytes in this process's memory. The tests in `tests/kmip` take this file in as well.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// Where `needle` is in this process's writable memory, but for the page that it is in itself and for secret pages.
pub(crate) fn places_of(needle: &[u8]) -> Vec<u64> {
    // One at a time: a search copies what it looks through, and must not find what another one has copied.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let own_page = needle.as_ptr().addr() as u64 / 4096;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let (mut found, mut buffer) = (Vec::new(), Vec::new());
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains("blkseal-secret")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        buffer.resize((end - start) as usize, 0);
        if memory.read_exact_at(&mut buffer, start).is_err() {
            continue; // memfd_secret(2) pages, or another thread has unmapped it since.
        }
        let mut from = 0;
        while let Some(at) = position_of(needle, &buffer[from..]) {
            found.push(start + (from + at) as u64);
            from += at + 1;
        }
        // It holds copies of what it looked through, which must not be found by this scan or another.
        buffer.fill(0);
    }
    found.retain(|address| address / 4096 != own_page);
    found
}

/// By libc, for the loop is too slow in a debug build.
fn position_of(needle: &[u8], haystack: &[u8]) -> Option<usize> {
    // SAFETY: both ranges are readable for their whole length.
    let at = unsafe {
        libc::memmem(haystack.as_ptr().cast(), haystack.len(), needle.as_ptr().cast(), needle.len())
    };
    (!at.is_null()).then(|| at.addr() - haystack.as_ptr().addr())
}
