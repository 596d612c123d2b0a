//! Passes everything to the backing as it is: what the same path costs without a cipher.

use std::os::fd::RawFd;

use super::Target;
use crate::backing::Backing;
use crate::buffer::Sealed;
use crate::cipher::SectorSize;
use crate::request::{IoError, Operation, Shape};
use crate::ring::{Io, Uring};

/// A backing without encryption, for studies only.
pub struct Plain<I = Uring> {
    backing: Backing<I>,
    shape: Shape,
}

impl<I: Io> Plain<I> {
    /// A device with sectors of `sector_size` on all of `backing`.
    pub fn new(backing: Backing<I>, sector_size: SectorSize, discard: bool, read_only: bool) -> Self {
        let (sectors, physical_block) = (backing.sectors(), backing.physical_block());
        Self { backing, shape: Shape { sectors, sector_size, physical_block, discard, read_only } }
    }
}

impl<I: Io> Target for Plain<I> {
    const NAME: &'static str = "plain";

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn backing_fd(&self) -> Option<RawFd> {
        Some(self.backing.raw_fd())
    }

    async fn execute(&self, operation: Operation, buffer: &mut [u8]) -> Result<(), IoError> {
        match operation {
            Operation::Read(range) => self.backing.read(range, buffer).await.map(|_| ()),
            Operation::Write { range, fua } => {
                let data = Sealed::without_encryption(&mut buffer[..range.bytes() as usize]);
                self.backing.write(range, &data, fua).await
            }
            Operation::Flush => self.backing.flush().await,
            Operation::Discard(range) => self.backing.discard(range).await,
            Operation::WriteZeroes { range, fua } => {
                for chunk in range.chunks(buffer.len()) {
                    let zeros = &mut buffer[..chunk.bytes() as usize];
                    zeros.fill(0);
                    self.backing.write(chunk, &Sealed::without_encryption(zeros), fua).await?;
                }
                Ok(())
            }
        }
    }
}
