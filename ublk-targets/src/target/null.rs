//! Answers at once and moves nothing: what ublk itself can do.

use std::os::fd::RawFd;

use super::Target;
use crate::cipher::SectorSize;
use crate::request::{IoError, Operation, Shape};

/// A device without a backing: writes vanish, reads leave the buffer as it is (zeros, or what was written last).
pub struct Null {
    shape: Shape,
}

impl Null {
    /// A device of `bytes` bytes, rounded down to whole sectors.
    pub fn new(bytes: u64, sector_size: SectorSize) -> Self {
        let sectors = (bytes >> sector_size.shift()) * sector_size.lbas();
        let physical_block = sector_size.into();
        Self { shape: Shape { sectors, sector_size, physical_block, discard: true, read_only: false } }
    }
}

impl Target for Null {
    const NAME: &'static str = "null";

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn backing_fd(&self) -> Option<RawFd> {
        None
    }

    async fn execute(&self, _: Operation, _: &mut [u8]) -> Result<(), IoError> {
        Ok(())
    }
}
