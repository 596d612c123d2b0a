//! A block device, read and written at any place, and what should be on it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that look random and are the same for the same seed (xorshift64*).
pub struct Pattern(u64);

impl Pattern {
    /// A pattern of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}

/// Bytes aligned for I/O past the page cache.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let memory = vec![0; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, len }
    }

    /// A copy of `data`.
    pub fn from(data: &[u8]) -> Self {
        let mut copy = Self::new(data.len());
        copy.bytes_mut().copy_from_slice(data);
        copy
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A block device, opened past the page cache, so that every read and write is a request.
pub struct Disk {
    file: File,
    pub bytes: u64,
}

impl Disk {
    /// Opens `path` with further `flags` of open(2).
    pub fn open(path: &Path, flags: i32) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | flags)
            .open(path)
            .unwrap();
        let bytes = super::run(&format!("blockdev --getsize64 {}", path.display())).trim().parse().unwrap();
        Self { file, bytes }
    }

    /// Writes `data` at `offset`, in one call.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(Aligned::from(data).bytes(), offset)
    }

    /// Reads `len` bytes at `offset`, in one call.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Aligned::new(len);
        self.file.read_exact_at(buffer.bytes_mut(), offset)?;
        Ok(buffer.bytes().to_vec())
    }

    /// Everything on the disk.
    pub fn read_all(&self) -> Vec<u8> {
        (0..self.bytes).step_by(1 << 20).fold(Vec::new(), |mut all, offset| {
            let len = (self.bytes - offset).min(1 << 20) as usize;
            all.extend(self.read(offset, len).unwrap());
            all
        })
    }

    /// Waits until what was written is on stable storage.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
