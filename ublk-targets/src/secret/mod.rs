//! The only home of key bytes.
//!
//! A [`Secret`] is a run of bytes in pages of its own that cannot be swapped, dumped or inherited by a child, and
//! that are wiped at their end. It has no `Clone`, no `Debug` and no way into ordinary memory. Where the kernel
//! has `memfd_secret(2)`, nobody else can read the pages either, root included; elsewhere they are an anonymous
//! file's pages under `mlock2(2)`. There is no third way: where memory cannot be locked, making a secret fails.
//!
//! A secret is handed to another process as a descriptor of a copy ([`Shared`]) by `SCM_RIGHTS`, without one of its bytes
//! going through a socket buffer. At all other times no descriptor leads to one.

mod keys;
mod pages;
pub mod process;

pub use keys::{DEK_LEN, Dek, KEK_LEN, Kek};
pub use pages::{LockKind, Secret, SecretBox, Shared};

use std::io;

/// Why a secret could not be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The limit on locked memory is used up. Both figures are in bytes.
    #[error("cannot lock {needed} bytes of memory for a key: the limit is {limit} bytes (RLIMIT_MEMLOCK)")]
    Limit {
        /// How much was to be locked.
        needed: usize,
        /// The soft limit of this process.
        limit: u64,
    },
    /// The kernel refused for another reason.
    #[error("cannot {action} secret memory")]
    Os {
        /// What was tried.
        action: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// A descriptor that was handed over holds another number of bytes than a key of its kind has.
    #[error("a handed-over secret has {found} bytes, expected {expected}")]
    Length {
        /// Bytes found.
        found: u64,
        /// Bytes that were expected.
        expected: usize,
    },
    /// Not a key that anybody draws at random: memory that was wiped or never written, or something made up.
    #[error("the data encryption key is {0}, which no generated key is")]
    WeakDek(&'static str),
}

/// Overwrites `N` bytes of the stack below the caller, where a cipher or key derivation may have left key bytes.
#[inline(never)]
pub fn scrub_stack<const N: usize>() {
    let mut area = std::mem::MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: `area` is N writable bytes of this frame.
    unsafe { std::ptr::write_bytes(area.as_mut_ptr(), 0, 1) };
    // The address escapes into opaque code, so that the write above cannot be dropped as dead.
    std::hint::black_box(area.as_ptr());
}

#[cfg(test)]
mod tests;
