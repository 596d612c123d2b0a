//! The two kinds of key, so that one cannot be passed for the other.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Secret, SecretError};

/// Bytes of a data encryption key: two AES-256 keys (IEEE 1619-2007, 5.1: data key, then tweak key).
pub const DEK_LEN: usize = 64;
/// Bytes of a key encryption key: AES-256.
pub const KEK_LEN: usize = 32;

/// A volume's data encryption key, [`DEK_LEN`] bytes.
pub struct Dek(Secret);

impl Dek {
    /// A new key from the kernel's random number generator. Its two halves differ, as SP 800-38E's revision asks.
    pub fn generate() -> Result<Self, SecretError> {
        loop {
            let mut key = Secret::zeroed(DEK_LEN)?;
            key.fill_random()?;
            if key.expose()[..32] != key.expose()[32..] {
                return Ok(Self(key));
            }
        }
    }

    /// Takes `secret` as a key. Fails unless it has [`DEK_LEN`] bytes.
    pub fn from_secret(secret: Secret) -> Result<Self, SecretError> {
        secret.expect_len(DEK_LEN).map(Self)
    }

    /// Takes over a key that another process handed to this one.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SecretError> {
        Secret::from_fd(fd, DEK_LEN).map(Self)
    }

    /// The descriptor to hand to another process. The pages are shared from then on, not copied.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }

    /// The key's bytes. They must not be copied out of secret memory.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A key encryption key, [`KEK_LEN`] bytes.
pub struct Kek(Secret);

impl Kek {
    /// A new key from the kernel's random number generator.
    pub fn generate() -> Result<Self, SecretError> {
        let mut key = Secret::zeroed(KEK_LEN)?;
        key.fill_random()?;
        Ok(Self(key))
    }

    /// Takes `secret` as a key. Fails unless it has [`KEK_LEN`] bytes.
    pub fn from_secret(secret: Secret) -> Result<Self, SecretError> {
        secret.expect_len(KEK_LEN).map(Self)
    }

    /// The key's bytes. They must not be copied out of secret memory.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}
