//! Encrypts on the way down and decrypts on the way up.

use std::os::fd::RawFd;

use super::Target;
use crate::backing::Backing;
use crate::buffer::Sealed;
use crate::cipher::Cipher;
use crate::request::{IoError, Operation, SectorRange, Shape};
use crate::ring::{Io, Uring};

/// A volume: a cipher over a backing. Sector n of the device is sector n of the backing's data, encrypted.
pub struct Crypt<I = Uring> {
    backing: Backing<I>,
    cipher: Cipher,
    shape: Shape,
}

impl<I: Io> Crypt<I> {
    /// A volume on all of `backing`, with the cipher's sector size.
    pub fn new(backing: Backing<I>, cipher: Cipher, discard: bool, read_only: bool) -> Self {
        let (sectors, physical_block) = (backing.sectors(), backing.physical_block());
        let sector_size = cipher.sector_size();
        Self { backing, cipher, shape: Shape { sectors, sector_size, physical_block, discard, read_only } }
    }

    /// The cipher, for its CPU path to be shown.
    pub fn cipher(&self) -> &Cipher {
        &self.cipher
    }

    async fn read(&self, range: SectorRange, buffer: &mut [u8]) -> Result<(), IoError> {
        let sealed = self.backing.read(range, buffer).await?;
        self.cipher.decrypt(range.first(), sealed.into_bytes());
        Ok(())
    }

    /// Writes the plaintext at the start of `buffer`; afterwards that is ciphertext.
    async fn write(&self, range: SectorRange, buffer: &mut [u8], fua: bool) -> Result<(), IoError> {
        let data = &mut buffer[..range.bytes() as usize];
        self.cipher.encrypt(range.first(), data);
        self.backing.write(range, &Sealed::new(data), fua).await
    }
}

impl<I: Io> Target for Crypt<I> {
    const NAME: &'static str = "crypt";

    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn backing_fd(&self) -> Option<RawFd> {
        Some(self.backing.raw_fd())
    }

    async fn execute(&self, operation: Operation, buffer: &mut [u8]) -> Result<(), IoError> {
        match operation {
            Operation::Read(range) => self.read(range, buffer).await,
            Operation::Write { range, fua } => self.write(range, buffer, fua).await,
            Operation::Flush => self.backing.flush().await,
            Operation::Discard(range) => self.backing.discard(range).await,
            // A hole would not decrypt to zeros, so zeros are encrypted and written like all else.
            Operation::WriteZeroes { range, fua } => {
                for chunk in range.chunks(buffer.len()) {
                    buffer[..chunk.bytes() as usize].fill(0);
                    self.write(chunk, buffer, fua).await?;
                }
                Ok(())
            }
        }
    }
}
