//! Round keys, expanded in place by the AES instructions (FIPS 197, 5.2 and 5.3.5).

use core::arch::aarch64::*;

use crate::cipher::keys::{ROUNDS, RoundKeys, Schedule};

/// Expands the 64 bytes of a data encryption key.
///
/// # Safety
/// The CPU has the features below.
#[target_feature(enable = "neon,aes")]
pub(in crate::cipher) unsafe fn expand(dek: &[u8], keys: &mut RoundKeys) {
    let (data, tweak) = dek.split_at(32);
    expand_encrypt(data, &mut keys.encrypt);
    invert(&keys.encrypt, &mut keys.decrypt);
    expand_encrypt(tweak, &mut keys.tweak);
}

/// Each round key follows from the two before.
#[target_feature(enable = "neon,aes")]
fn expand_encrypt(key: &[u8], schedule: &mut Schedule) {
    let keys = &mut schedule.0;
    keys[0].copy_from_slice(&key[..16]);
    keys[1].copy_from_slice(&key[16..32]);
    for i in 2..=ROUNDS {
        let last_word = vdupq_laneq_u32::<3>(load_words(&keys[i - 1]));
        let mut word = substitute(last_word);
        if i.is_multiple_of(2) {
            // The round constants of AES-256 are the powers of x below the polynomial's degree; bytes of a word count
            // from the lowest, where the constant goes in.
            word = veorq_u32(rotate(word), vdupq_n_u32(1 << (i / 2 - 1)));
        }
        let prefix = prefix_xor(load_words(&keys[i - 2]));
        store(&mut keys[i], vreinterpretq_u8_u32(veorq_u32(prefix, word)));
    }
}

/// SubWord of a word that is in all four places: ShiftRows, which comes with the instruction, moves bytes between
/// equal columns, and a key of zeros adds nothing.
#[inline]
#[target_feature(enable = "neon,aes")]
fn substitute(word: uint32x4_t) -> uint32x4_t {
    vreinterpretq_u32_u8(vaeseq_u8(vreinterpretq_u8_u32(word), vdupq_n_u8(0)))
}

/// RotWord: the first byte, a word's lowest, becomes its last.
#[inline]
#[target_feature(enable = "neon")]
fn rotate(word: uint32x4_t) -> uint32x4_t {
    vsriq_n_u32::<8>(vshlq_n_u32::<24>(word), word)
}

/// Each of the four words becomes the exclusive or of itself and those before it.
#[inline]
#[target_feature(enable = "neon")]
fn prefix_xor(words: uint32x4_t) -> uint32x4_t {
    let zero = vdupq_n_u32(0);
    let words = veorq_u32(words, vextq_u32::<3>(zero, words));
    veorq_u32(words, vextq_u32::<2>(zero, words))
}

/// The schedule of the equivalent inverse cipher: reversed, all but the ends through InvMixColumns.
#[target_feature(enable = "neon,aes")]
fn invert(encrypt: &Schedule, decrypt: &mut Schedule) {
    for (i, key) in decrypt.0.iter_mut().enumerate() {
        let from = load(&encrypt.0[ROUNDS - i]);
        store(key, if i == 0 || i == ROUNDS { from } else { vaesimcq_u8(from) });
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(block: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 readable bytes, of any alignment.
    unsafe { vld1q_u8(block.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_words(block: &[u8; 16]) -> uint32x4_t {
    vreinterpretq_u32_u8(load(block))
}

#[inline]
#[target_feature(enable = "neon")]
fn store(block: &mut [u8; 16], value: uint8x16_t) {
    // SAFETY: 16 writable bytes, of any alignment.
    unsafe { vst1q_u8(block.as_mut_ptr(), value) }
}
