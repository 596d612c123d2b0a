//! A tag's buffer, and types that keep plaintext and ciphertext apart.

use std::io;
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

/// One tag's data buffer: pages of its own, zero at first, taken from the kernel when they are first touched. They
/// hold plaintext at times, so they stay out of core dumps, and a child would not have them.
pub struct TagBuffer {
    start: NonNull<u8>,
    len: usize,
}

impl TagBuffer {
    /// A buffer of `len` bytes, aligned to a page.
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping chosen by the kernel; no existing memory is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
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
        let buffer = Self { start, len };
        for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
            // SAFETY: the range is the mapping made above; the advice changes no byte of it.
            if unsafe { libc::madvise(address, len, advice) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(buffer)
    }

    /// Address of the first byte, for the driver to copy a request's data to and from.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the mapping holds `len` initialised bytes for as long as `self` lives, and `&mut self` makes this
        // the only access in this process. The kernel writes to it only between a commit and the next request of
        // this tag, when no such slice is alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for TagBuffer {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
