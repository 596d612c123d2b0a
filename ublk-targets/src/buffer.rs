//! The tags' buffers, and types that keep plaintext and ciphertext apart.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Data as it goes to and comes from the backing. The only ways to one are the cipher, a read of the backing, and
/// [`Sealed::without_encryption`], so that plaintext cannot reach the backing by mistake.
pub struct Sealed<'a>(&'a mut [u8]);

impl<'a> Sealed<'a> {
    /// For the `plain` target, which stores what it is given.
    pub fn without_encryption(data: &'a mut [u8]) -> Self {
        Self(data)
    }

    /// Data that was just encrypted in place, or read from the backing.
    pub(crate) fn new(data: &'a mut [u8]) -> Self {
        Self(data)
    }

    /// The bytes as stored.
    pub fn bytes(&self) -> &[u8] {
        self.0
    }

    /// The bytes, to be decrypted in place.
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.0
    }
}

/// The kernel's huge pages on x86-64 and aarch64, in bytes.
const HUGE_PAGE: usize = 2 << 20;

/// The memory of a queue's tags in one piece, so that a ring can register it whole: pages of its own, zero at first, huge
/// ones where the kernel has them. They hold plaintext at times, so they stay out of core dumps.
pub struct TagMemory {
    start: NonNull<u8>,
    mapped: usize,
    tags: usize,
    tag_bytes: usize,
}

impl TagMemory {
    /// Memory for `tags` buffers of `tag_bytes` bytes each, which must be whole pages.
    pub fn new(tags: u16, tag_bytes: usize) -> io::Result<Self> {
        let (tags, mapped) = (usize::from(tags), usize::from(tags) * tag_bytes);
        // A mapping of whole huge pages is placed on one by the kernel (6.7 and later).
        let mapped = if mapped < HUGE_PAGE { mapped } else { mapped.next_multiple_of(HUGE_PAGE) };
        // SAFETY: a new private mapping chosen by the kernel; no existing memory is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let start = match NonNull::new(address.cast::<u8>()) {
            Some(start) if address != libc::MAP_FAILED => start,
            _ => return Err(io::Error::last_os_error()),
        };
        let memory = Self { start, mapped, tags, tag_bytes };
        // Small pages serve as well, where the kernel has no huge ones.
        let _ = memory.advise(libc::MADV_HUGEPAGE);
        memory.advise(libc::MADV_DONTDUMP)?;
        Ok(memory)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is the mapping made in `new`; no advice that is given changes a byte of it.
        match unsafe { libc::madvise(self.start.as_ptr().cast(), self.mapped, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Address and length in bytes, for a ring to register.
    pub fn range(&self) -> (*mut u8, usize) {
        (self.start.as_ptr(), self.mapped)
    }

    /// Each tag's buffer, in the order of tags.
    pub fn buffers(&mut self) -> impl Iterator<Item = TagBuffer<'_>> {
        let Self { start, tags, tag_bytes, .. } = *self;
        (0..tags).map(move |tag| {
            // SAFETY: the mapping holds `tags` buffers of `tag_bytes`.
            let start = unsafe { start.add(tag * tag_bytes) };
            TagBuffer { start, len: tag_bytes, memory: PhantomData }
        })
    }
}

impl Drop for TagMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

/// One tag's data buffer, aligned to a page.
pub struct TagBuffer<'a> {
    start: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a mut [u8]>,
}

impl TagBuffer<'_> {
    /// Address of the first byte, for the driver to copy a request's data to and from.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory holds `len` initialised bytes for as long as it is borrowed, no other buffer has any of
        // them, and `&mut self` makes this the only access in this process. The kernel writes to it only between a
        // commit and the next request of this tag, when no such slice is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
