//! Round keys, expanded in place by the AES-NI key generation instructions (FIPS 197, 5.2 and 5.3.5).

use core::arch::x86_64::*;

use crate::cipher::keys::{ROUNDS, RoundKeys, Schedule};

/// Expands the 64 bytes of a data encryption key.
///
/// # Safety
/// The CPU has AES-NI.
#[target_feature(enable = "aes")]
pub(in crate::cipher) unsafe fn expand(dek: &[u8], keys: &mut RoundKeys) {
    let (data, tweak) = dek.split_at(32);
    expand_encrypt(data, &mut keys.encrypt);
    invert(&keys.encrypt, &mut keys.decrypt);
    expand_encrypt(tweak, &mut keys.tweak);
}

/// Each pair of round keys follows from the pair before.
#[target_feature(enable = "aes")]
fn expand_encrypt(key: &[u8], schedule: &mut Schedule) {
    let keys = &mut schedule.0;
    keys[0].copy_from_slice(&key[..16]);
    keys[1].copy_from_slice(&key[16..32]);
    even::<0x01>(keys, 2);
    odd(keys, 3);
    even::<0x02>(keys, 4);
    odd(keys, 5);
    even::<0x04>(keys, 6);
    odd(keys, 7);
    even::<0x08>(keys, 8);
    odd(keys, 9);
    even::<0x10>(keys, 10);
    odd(keys, 11);
    even::<0x20>(keys, 12);
    odd(keys, 13);
    even::<0x40>(keys, 14);
}

/// Round key `i`, even: RotWord, SubWord and the round constant go in.
#[inline]
#[target_feature(enable = "aes")]
fn even<const CONSTANT: i32>(keys: &mut [[u8; 16]; ROUNDS + 1], i: usize) {
    let word = _mm_shuffle_epi32::<0xFF>(_mm_aeskeygenassist_si128::<CONSTANT>(load(&keys[i - 1])));
    let prefix = prefix_xor(load(&keys[i - 2]));
    store(&mut keys[i], _mm_xor_si128(prefix, word));
}

/// Round key `i`, odd: SubWord only.
#[inline]
#[target_feature(enable = "aes")]
fn odd(keys: &mut [[u8; 16]; ROUNDS + 1], i: usize) {
    let word = _mm_shuffle_epi32::<0xAA>(_mm_aeskeygenassist_si128::<0>(load(&keys[i - 1])));
    let prefix = prefix_xor(load(&keys[i - 2]));
    store(&mut keys[i], _mm_xor_si128(prefix, word));
}

/// Each of the four words becomes the exclusive or of itself and those before it.
#[inline]
#[target_feature(enable = "sse2")]
fn prefix_xor(words: __m128i) -> __m128i {
    let words = _mm_xor_si128(words, _mm_slli_si128::<4>(words));
    _mm_xor_si128(words, _mm_slli_si128::<8>(words))
}

/// The schedule of the equivalent inverse cipher: reversed, all but the ends through InvMixColumns.
#[target_feature(enable = "aes")]
fn invert(encrypt: &Schedule, decrypt: &mut Schedule) {
    for (i, key) in decrypt.0.iter_mut().enumerate() {
        let from = load(&encrypt.0[ROUNDS - i]);
        store(key, if i == 0 || i == ROUNDS { from } else { _mm_aesimc_si128(from) });
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(block: &[u8; 16]) -> __m128i {
    // SAFETY: 16 readable bytes, of any alignment.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(block: &mut [u8; 16], value: __m128i) {
    // SAFETY: 16 writable bytes, of any alignment.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}
