//! AES-KWP: AES key wrap with padding (NIST SP 800-38F, 6.3; RFC 5649).

use aes_kw::{KeyInit, KwpAes256};
use ublk_targets::cipher::scrub_registers;
use ublk_targets::secret::{DEK_LEN, Dek, Kek, Secret, SecretError, scrub_stack};

/// The name of the algorithm, as tokens carry it.
pub const ALGORITHM: &str = "AES-KWP";
/// Bytes of a wrapped DEK: the key and one semiblock of 8 bytes for the integrity check.
pub const WRAPPED_DEK_LEN: usize = DEK_LEN + 8;

/// More than the deepest frame of a wrap uses: two expanded AES-256 keys and their working blocks.
const STACK_USED: usize = 16 * 1024;

/// Why a key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum WrapError {
    /// The wrapped bytes cannot be a wrapped key of the expected length, whatever the KEK.
    #[error("a wrapped key of {found} bytes is malformed, expected {expected}")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// The integrity check failed: another KEK wrapped these bytes, or they were changed since.
    #[error("the key was wrapped by another KEK")]
    OtherKek,
    /// Memory for the key could not be had.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Wraps `dek` under `kek`: [`WRAPPED_DEK_LEN`] bytes, the same at every call.
pub fn wrap(kek: &Kek, dek: &Dek) -> Result<[u8; WRAPPED_DEK_LEN], WrapError> {
    wrap_bytes(kek.expose(), dek.expose())
}

/// The DEK that `wrapped` holds under `kek`.
pub fn unwrap(kek: &Kek, wrapped: &[u8]) -> Result<Dek, WrapError> {
    Ok(Dek::from_secret(unwrap_bytes(kek.expose(), wrapped, DEK_LEN)?)?)
}

/// Wraps `N - 8` bytes, a multiple of 8, under a key of 32.
pub(super) fn wrap_bytes<const N: usize>(key: &[u8], plain: &[u8]) -> Result<[u8; N], WrapError> {
    let malformed = WrapError::Length { found: plain.len() + 8, expected: N };
    let mut wrapped = [0; N];
    match with_cipher(key, |cipher| cipher.wrap_key(plain, &mut wrapped).map(<[u8]>::len)) {
        Ok(length) if length == N => Ok(wrapped),
        _ => Err(malformed),
    }
}

/// Unwraps into secret pages. `len`, a multiple of 8, is how many bytes there must be inside.
pub(super) fn unwrap_bytes(key: &[u8], wrapped: &[u8], len: usize) -> Result<Secret, WrapError> {
    if wrapped.len() != len + 8 {
        return Err(WrapError::Length { found: wrapped.len(), expected: len + 8 });
    }
    let mut plain = Secret::zeroed(len)?;
    // A length other than `len` in the integrity block counts as a failed check: no blkseal made it.
    match with_cipher(key, |cipher| cipher.unwrap_key(wrapped, plain.expose_mut()).map(<[u8]>::len)) {
        Ok(found) if found == len => Ok(plain),
        _ => Err(WrapError::OtherKek),
    }
}

/// Runs `work` with `key` expanded on the stack, which `aes` wipes, and scrubs what moves and rounds left there and in
/// vector registers.
fn with_cipher<T>(
    key: &[u8],
    work: impl FnOnce(&KwpAes256) -> Result<T, aes_kw::Error>,
) -> Result<T, aes_kw::Error> {
    #[inline(never)]
    fn expanded<T>(
        key: &[u8],
        work: impl FnOnce(&KwpAes256) -> Result<T, aes_kw::Error>,
    ) -> Result<T, aes_kw::Error> {
        work(&KwpAes256::new_from_slice(key).map_err(|_| aes_kw::Error::InvalidDataSize)?)
    }
    let done = expanded(key, work);
    scrub_stack::<STACK_USED>();
    scrub_registers();
    done
}
