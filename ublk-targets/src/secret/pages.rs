//! Locked pages and what may be done with them.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

use nix::sys::resource::{Resource, getrlimit};

use super::SecretError;

/// How the pages of a [`Secret`] are kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `memfd_secret(2)`: taken out of the kernel's direct map; unreadable for every other process.
    MemfdSecret,
    /// `memfd_create(2)` under `mlock2(2)`: never swapped or dumped, but root can read it through `/proc/PID/mem`.
    Mlock,
}

/// Bytes in locked pages of their own; wiped when dropped.
///
/// No descriptor leads to the pages: whoever may trace this process could take one and map it (pidfd_getfd(2)). What is to
/// be handed to another process is [shared](Self::share) for as long as that takes.
pub struct Secret {
    start: NonNull<u8>,
    len: usize,
    kind: LockKind,
}

// SAFETY: the pages belong to this value alone, and shared access gives out `&[u8]` only.
unsafe impl Send for Secret {}
// SAFETY: as above.
unsafe impl Sync for Secret {}

impl Secret {
    /// `len` zero bytes, under the best lock this kernel has.
    pub fn zeroed(len: usize) -> Result<Self, SecretError> {
        match Self::zeroed_as(len, LockKind::MemfdSecret) {
            Err(SecretError::Os { action: "create", .. }) => Self::zeroed_as(len, LockKind::Mlock),
            other => other,
        }
    }

    /// `len` zero bytes under the lock `kind`, or an error where the kernel has no such lock.
    pub fn zeroed_as(len: usize, kind: LockKind) -> Result<Self, SecretError> {
        Self::with_descriptor(len, kind).map(|(secret, _)| secret)
    }

    /// The same, with a descriptor of the pages.
    fn with_descriptor(len: usize, kind: LockKind) -> Result<(Self, OwnedFd), SecretError> {
        let file = File::from(create_descriptor(kind)?);
        file.set_len(len as u64).map_err(os("size"))?;
        let fd = OwnedFd::from(file);
        Ok((Self::map(fd.as_fd(), len, kind)?.populated()?, fd))
    }

    /// The same secret, every page of which is there.
    ///
    /// Linux 6.12 counts the pages of `memfd_secret(2)` against the limit when they are first touched, not when they
    /// are mapped. One too many is a SIGBUS to a store, but an error to a system call that writes to it.
    fn populated(mut self) -> Result<Self, SecretError> {
        const PAGE: usize = 4096; // the smallest there is: touching a larger one twice does no harm
        for page in self.expose_mut().chunks_mut(PAGE) {
            // SAFETY: `page` is writable for at least the one byte that is asked for.
            if unsafe { libc::getrandom(page.as_mut_ptr().cast(), 1, 0) } != 1 {
                let error = limit_error(self.len);
                self.release(); // nothing to wipe, and no touching what is not there
                return Err(error);
            }
            page[0] = 0;
        }
        Ok(self)
    }

    /// `len` bytes from the kernel's random number generator.
    pub fn random(len: usize) -> Result<Self, SecretError> {
        let mut secret = Self::zeroed(len)?;
        secret.fill_random()?;
        Ok(secret)
    }

    /// Takes over a secret of exactly `len` bytes that another process handed over as a descriptor.
    pub fn from_fd(fd: OwnedFd, len: usize) -> Result<Self, SecretError> {
        let secret = Self::from_fd_at_most(fd, len)?;
        secret.expect_len(len)
    }

    /// Takes over a secret of 1 to `limit` bytes that another process handed over as a descriptor.
    ///
    /// Pages of `memfd_secret(2)` cannot be cut once they have a size, and are mapped; the drop wipes them for the giver,
    /// too. Any other memory file is copied: whoever gave it may cut it at any time, and to touch a page that is gone is
    /// the end of the process (SIGBUS).
    pub fn from_fd_at_most(fd: OwnedFd, limit: usize) -> Result<Self, SecretError> {
        let kind = lock_kind_of(fd.as_fd())?;
        let file = File::from(fd);
        let found = file.metadata().map_err(os("stat"))?.len();
        let len = match usize::try_from(found) {
            Ok(len) if (1..=limit).contains(&len) => len,
            _ => return Err(SecretError::Length { found, expected: limit }),
        };
        match kind {
            LockKind::MemfdSecret => Self::map(file.as_fd(), len, kind),
            LockKind::Mlock => {
                let mut secret = Self::zeroed(len)?;
                file.read_exact_at(secret.expose_mut(), 0).map_err(os("read"))?;
                Ok(secret)
            }
        }
    }

    /// A copy that another process can take over.
    pub fn share(&self) -> Result<Shared, SecretError> {
        let (mut pages, fd) = Self::with_descriptor(self.len, self.kind)?;
        pages.expose_mut().copy_from_slice(self.expose());
        Ok(Shared { pages, fd })
    }

    fn map(fd: BorrowedFd<'_>, len: usize, kind: LockKind) -> Result<Self, SecretError> {
        assert!(len > 0, "a secret has at least one byte");
        // SAFETY: a new mapping chosen by the kernel; no existing memory is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(lock_error("map", len));
        }
        let Some(start) = NonNull::new(address.cast::<u8>()) else {
            return Err(SecretError::Os { action: "map", source: io::ErrorKind::InvalidInput.into() });
        };
        // From here on the drop of `secret` unmaps, whatever fails.
        let secret = Self { start, len, kind };
        // memfd_secret pages are locked by their nature (and `mlock` of them is refused on some kernels).
        // SAFETY: the range is the mapping made above.
        if kind == LockKind::Mlock && unsafe { libc::mlock(address, len) } != 0 {
            return Err(lock_error("lock", len));
        }
        for (advice, action) in
            [(libc::MADV_DONTDUMP, "keep from dumps"), (libc::MADV_DONTFORK, "keep from children")]
        {
            // SAFETY: the range is the mapping made above; the advice changes no byte of it.
            if unsafe { libc::madvise(address, len, advice) } != 0 {
                return Err(SecretError::Os { action, source: io::Error::last_os_error() });
            }
        }
        Ok(secret)
    }

    /// Passes the secret on if it has `len` bytes.
    pub fn expect_len(self, len: usize) -> Result<Self, SecretError> {
        if self.len == len {
            Ok(self)
        } else {
            Err(SecretError::Length { found: self.len as u64, expected: len })
        }
    }

    /// Overwrites the secret with random bytes, drawn by the kernel straight into its pages.
    pub fn fill_random(&mut self) -> Result<(), SecretError> {
        let mut filled = 0;
        while filled < self.len {
            let rest = &mut self.expose_mut()[filled..];
            // SAFETY: `rest` is writable for its whole length.
            match unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) } {
                got if got > 0 => filled += got.unsigned_abs(),
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(SecretError::Os { action: "fill", source: io::Error::last_os_error() }),
            }
        }
        Ok(())
    }

    /// Bytes of the secret.
    #[allow(clippy::len_without_is_empty, reason = "a secret is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// How the pages are locked.
    pub fn kind(&self) -> LockKind {
        self.kind
    }

    /// The bytes. They must not be copied into ordinary memory.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: the mapping holds `len` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `expose`; `&mut self` makes the access the only one in this process.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// A shorter secret from the first `len` bytes, in new pages; the old pages are wiped.
    ///
    /// # Panics
    /// When `len` is zero or more than there is.
    pub fn truncated(self, len: usize) -> Result<Self, SecretError> {
        if len == self.len {
            return Ok(self);
        }
        let mut short = Self::zeroed_as(len, self.kind)?;
        short.expose_mut().copy_from_slice(&self.expose()[..len]);
        Ok(short)
    }

    /// Lets go of the pages without touching them.
    fn release(self) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the mapping was made in `map`, is unmapped once, and `this` is not used again.
        unsafe { libc::munmap(this.start.as_ptr().cast(), this.len) };
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.expose_mut().fill(0);
        // The address escapes, so that the wipe above cannot be dropped as dead.
        std::hint::black_box(self.start.as_ptr());
        // SAFETY: the mapping was made in `map` and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A copy of a secret, and a descriptor by which another process can take it over.
///
/// It must live until the other process has done so, or can no longer: the drop wipes the pages, whoever has mapped them.
pub struct Shared {
    pages: Secret,
    fd: OwnedFd,
}

impl Shared {
    /// How the pages are locked.
    pub fn kind(&self) -> LockKind {
        self.pages.kind
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One value of type `T` in secret pages, for expanded keys. Nothing of it is ever moved out.
pub struct SecretBox<T> {
    pages: Secret,
    value: PhantomData<T>,
}

impl<T> SecretBox<T> {
    /// Makes the value in place: `init` must write every field of the slot that it is given.
    ///
    /// # Safety
    /// `init` must leave the slot initialised, and `T` must not own memory outside itself, for it is wiped, not
    /// dropped.
    pub unsafe fn new_with(init: impl FnOnce(&mut MaybeUninit<T>)) -> Result<Self, SecretError> {
        assert!(align_of::<T>() <= 4096, "pages are aligned to 4096 bytes only");
        let mut pages = Secret::zeroed(size_of::<T>())?;
        let slot = pages.expose_mut().as_mut_ptr().cast::<MaybeUninit<T>>();
        // SAFETY: the pages have T's size, at least T's alignment, and are borrowed by nobody else.
        init(unsafe { &mut *slot });
        Ok(Self { pages, value: PhantomData })
    }

    /// The value.
    pub fn get(&self) -> &T {
        // SAFETY: `new_with` had the slot initialised.
        unsafe { &*self.pages.expose().as_ptr().cast::<T>() }
    }
}

fn create_descriptor(kind: LockKind) -> Result<OwnedFd, SecretError> {
    // SAFETY: both calls make a new descriptor and read at most the given constant string.
    let fd = unsafe {
        match kind {
            LockKind::MemfdSecret => libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC),
            LockKind::Mlock => {
                libc::syscall(libc::SYS_memfd_create, c"blkseal-secret".as_ptr(), libc::MFD_CLOEXEC)
            }
        }
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave this descriptor to us alone.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(SecretError::Os { action: "create", source: io::Error::last_os_error() }),
    }
}

/// Tells the two kinds of descriptor apart by the file system that they live on.
fn lock_kind_of(fd: BorrowedFd<'_>) -> Result<LockKind, SecretError> {
    const SECRETMEM_MAGIC: i64 = 0x5345_434d; // linux/magic.h
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let stat = nix::sys::statfs::fstatfs(fd).map_err(|e| os("stat")(e.into()))?;
    match stat.filesystem_type().0 {
        SECRETMEM_MAGIC => Ok(LockKind::MemfdSecret),
        TMPFS_MAGIC => Ok(LockKind::Mlock),
        _ => Err(os("take over")(io::Error::other("the descriptor is not secret memory"))),
    }
}

fn os(action: &'static str) -> impl Fn(io::Error) -> SecretError {
    move |source| SecretError::Os { action, source }
}

/// The limit shows as EAGAIN from mmap and mlock, as ENOMEM from mlock, and as EPERM where it is zero.
fn lock_error(action: &'static str, needed: usize) -> SecretError {
    let source = io::Error::last_os_error();
    match source.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EPERM) => limit_error(needed),
        _ => SecretError::Os { action, source },
    }
}

fn limit_error(needed: usize) -> SecretError {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    SecretError::Limit { needed, limit }
}
