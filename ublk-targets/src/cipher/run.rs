//! What a cipher is asked for.

use super::SectorSize;

/// Which way a run goes.
#[derive(Clone, Copy)]
pub(super) enum Direction {
    Encrypt,
    Decrypt,
}

/// The sectors that one call works on. Source and target are the same memory, or do not overlap.
pub(super) struct Run {
    pub source: *const u8,
    pub target: *mut u8,
    pub sectors: usize,
    pub sector_size: SectorSize,
    pub first_lba: u64,
}
