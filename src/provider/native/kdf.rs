//! A passphrase or key file made into a key: Argon2id (RFC 9106).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use ublk_targets::secret::{KEK_LEN, Secret, scrub_stack};
use zeroize::Zeroize;

use crate::provider::ProviderError;

/// Bytes of salt.
pub const SALT_LEN: usize = 32;

/// Frames of Argon2 and BLAKE2b hold several blocks of 1 KiB each, in a debug build with copies of each.
const STACK_USED: usize = 64 * 1024;

/// What a derivation costs; kept in the file, so that it can differ from file to file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KdfCost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl KdfCost {
    /// 64 MiB, 3 passes, 4 lanes: the second recommended option of RFC 9106, section 4, for hosts that cannot spare
    /// the 2 GiB of the first.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// A cost within what RFC 9106 allows and within 4 GiB, 64 passes and 64 lanes, so that a file that was tampered
    /// with cannot keep the daemon busy for ever.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        let allowed = (1..=64).contains(&lanes)
            && (1..=64).contains(&passes)
            && (8 * lanes..=4 * 1024 * 1024).contains(&memory_kib);
        allowed.then_some(Self { memory_kib, passes, lanes })
    }

    /// Memory in KiB, passes, lanes.
    pub fn parameters(&self) -> [u32; 3] {
        [self.memory_kib, self.passes, self.lanes]
    }
}

/// The key of [`KEK_LEN`] bytes that `secret` and `salt` give.
pub fn derive(secret: &Secret, salt: &[u8; SALT_LEN], cost: KdfCost) -> Result<Secret, ProviderError> {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(KEK_LEN)).map_err(refused)?;
    let mut blocks = Memory::new(params.block_count())?;
    let mut key = Secret::zeroed(KEK_LEN)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let derived = argon2.hash_password_into_with_memory(
        secret.expose(),
        salt,
        key.expose_mut(),
        blocks.0.as_mut_slice(),
    );
    scrub_stack::<STACK_USED>();
    derived.map_err(refused)?;
    Ok(key)
}

/// The blocks that Argon2 fills: as good as the key itself, so wiped whatever happens.
struct Memory(Vec<Block>);

impl Memory {
    fn new(count: usize) -> Result<Self, ProviderError> {
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).map_err(|e| ProviderError::Derivation(e.to_string()))?;
        blocks.resize(count, Block::new());
        Ok(Self(blocks))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

fn refused(error: argon2::Error) -> ProviderError {
    ProviderError::Derivation(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From libargon2 20171227, `argon2id_hash_raw`, for this passphrase, salt 00 01 .. 1f and these costs.
    const KNOWN: [([u32; 3], &str); 3] = [
        ([32, 1, 1], "89c46c4c92aac4a0498f49c6d76cd0e167315fb58598aa9b78444a9cf58fc5a4"),
        ([64, 2, 2], "5bb25b9d3247ec86c8ce1a4939584fb24d89a94a67a096d60d0510056d9513fe"),
        ([65536, 3, 4], "fc5d642bb060f1becda3a96cf47ed429465a98babc939c96228302fc85e53a4f"),
    ];

    #[test]
    fn libargon2_derives_the_same() {
        let passphrase = b"correct horse";
        let mut secret = Secret::zeroed(passphrase.len()).unwrap();
        secret.expose_mut().copy_from_slice(passphrase);
        let salt = std::array::from_fn(|index| index as u8);
        for ([memory_kib, passes, lanes], expected) in KNOWN {
            let cost = KdfCost::new(memory_kib, passes, lanes).unwrap();
            let key = derive(&secret, &salt, cost).unwrap();
            let found: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected);
        }
    }
}
