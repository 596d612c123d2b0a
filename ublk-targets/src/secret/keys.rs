//! The two kinds of key, so that one cannot be passed for the other.

use std::os::fd::OwnedFd;

use super::{Secret, SecretError, Shared};

/// Bytes of a data encryption key: two AES-256 keys (IEEE 1619-2007, 5.1: data key, then tweak key).
pub const DEK_LEN: usize = 64;
/// Bytes of a key encryption key: AES-256.
pub const KEK_LEN: usize = 32;

/// A volume's data encryption key, [`DEK_LEN`] bytes.
pub struct Dek(Secret);

impl Dek {
    /// A new key from the kernel's random number generator.
    pub fn generate() -> Result<Self, SecretError> {
        Self::from_secret(Secret::random(DEK_LEN)?)
    }

    /// Takes `secret` as a key. Fails unless it has [`DEK_LEN`] bytes and passes the [check](Self::check).
    pub fn from_secret(secret: Secret) -> Result<Self, SecretError> {
        let dek = secret.expect_len(DEK_LEN).map(Self)?;
        dek.check()?;
        Ok(dek)
    }

    /// Takes over a key that another process handed to this one.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, SecretError> {
        Self::from_secret(Secret::from_fd(fd, DEK_LEN)?)
    }

    /// Fails for a key whose two halves are the same (NIST SP 800-38E and FIPS 140 forbid it), or nothing but zeros. Who is
    /// about to encrypt asks once more: data under a key of zeros is as good as plaintext, and under a wrong key lost.
    #[inline(never)]
    pub fn check(&self) -> Result<(), SecretError> {
        let (data, tweak) = self.expose().split_at(DEK_LEN / 2);
        match data == tweak {
            true if data.iter().all(|&byte| byte == 0) => Err(SecretError::WeakDek("all zeros")),
            true => Err(SecretError::WeakDek("one half twice")),
            false => Ok(()),
        }
    }

    /// A copy that another process can take over.
    pub fn share(&self) -> Result<Shared, SecretError> {
        self.0.share()
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
