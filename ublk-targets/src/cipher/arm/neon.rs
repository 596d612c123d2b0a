//! ARMv8's AES instructions: one block in a register.

use core::arch::aarch64::*;
use core::arch::asm;

use crate::cipher::keys::RoundKeys;
use crate::cipher::run::Run;
use crate::cipher::xts::{self, Register};

/// Registers in flight: with their tweaks and last keys, as many as 32 registers hold.
const IN_FLIGHT: usize = 8;

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "neon,aes")]
pub(in crate::cipher) unsafe fn encrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Neon, IN_FLIGHT, true>(keys, run) }
}

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "neon,aes")]
pub(in crate::cipher) unsafe fn decrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Neon, IN_FLIGHT, false>(keys, run) }
}

#[derive(Clone, Copy)]
struct Neon(uint8x16_t);

/// A round's two instructions. CPUs run them as one where the second directly follows the first and both write the
/// same register, so the compiler gets no say in either.
macro_rules! round {
    ($name:ident, $first:literal, $second:literal) => {
        #[inline]
        #[target_feature(enable = "neon,aes")]
        fn $name(mut blocks: uint8x16_t, key: uint8x16_t) -> uint8x16_t {
            // SAFETY: register operations only, of features that the function asks for.
            unsafe {
                asm!(
                    concat!($first, " {blocks:v}.16b, {key:v}.16b"),
                    concat!($second, " {blocks:v}.16b, {blocks:v}.16b"),
                    blocks = inout(vreg) blocks,
                    key = in(vreg) key,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            blocks
        }
    };
}

round!(encrypt_round, "aese", "aesmc");
round!(decrypt_round, "aesd", "aesimc");

/// The last round without its own key.
#[inline]
#[target_feature(enable = "neon,aes")]
fn last_encrypt_round(blocks: uint8x16_t, key: uint8x16_t) -> uint8x16_t {
    vaeseq_u8(blocks, key)
}

/// See [`last_encrypt_round`].
#[inline]
#[target_feature(enable = "neon,aes")]
fn last_decrypt_round(blocks: uint8x16_t, key: uint8x16_t) -> uint8x16_t {
    vaesdq_u8(blocks, key)
}

/// Adds what the bits `carry`, which a shift moved out at the top, contribute at the bottom beside themselves. Shifts and
/// sums, and no product of polynomials, which would wait for the unit of AES where a CPU has one only.
#[inline]
#[target_feature(enable = "neon")]
fn reduce(shifted: uint64x2_t, carry: uint64x2_t) -> uint8x16_t {
    let times_2 = vaddq_u64(carry, carry);
    let times_4 = vaddq_u64(times_2, times_2);
    let times_128 = vshlq_n_u64::<7>(carry);
    vreinterpretq_u8_u64(veorq_u64(veorq_u64(shifted, times_128), veorq_u64(times_2, times_4)))
}

#[inline]
#[target_feature(enable = "neon")]
fn barrier(mut blocks: uint8x16_t) -> uint8x16_t {
    // SAFETY: the template is a comment.
    unsafe { asm!("/* {0:v} */", inout(vreg) blocks, options(nostack, preserves_flags)) };
    blocks
}

/// `first` times alpha to the power of `index`, at most 8.
#[inline]
#[target_feature(enable = "neon")]
fn times_alpha(first: uint8x16_t, index: usize) -> uint8x16_t {
    let halves = vreinterpretq_u64_u8(first);
    let left = vdupq_n_s64(index as i64);
    // A negative count shifts to the right.
    let carries = vshlq_u64(halves, vsubq_s64(left, vdupq_n_s64(64)));
    // The carry of each half of a block goes into the other half.
    let carries = vextq_u64::<1>(carries, carries);
    let shifted = veorq_u64(vshlq_u64(halves, left), carries);
    reduce(shifted, vandq_u64(carries, low_half(u64::MAX)))
}

/// `tweak` times alpha to the power of 8, the number of blocks in flight: a rotation by a byte.
#[inline]
#[target_feature(enable = "neon")]
fn times_alpha_8(tweak: uint8x16_t) -> uint8x16_t {
    const { assert!(IN_FLIGHT == 8) };
    let rotated = vreinterpretq_u64_u8(vextq_u8::<15>(tweak, tweak));
    reduce(rotated, vandq_u64(rotated, low_half(0xFF)))
}

/// A number in the low half of a block.
#[inline]
#[target_feature(enable = "neon")]
fn low_half(number: u64) -> uint64x2_t {
    vcombine_u64(vcreate_u64(number), vcreate_u64(0))
}

impl Register for Neon {
    const BLOCKS: usize = 1;
    const HOLDS_KEYS: bool = false;

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // SAFETY: as the trait says; the same holds below.
        unsafe { Self(vld1q_u8(source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: see `load`.
        unsafe { vst1q_u8(target, self.0) }
    }

    #[inline(always)]
    unsafe fn splat(block: &[u8; 16]) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(vld1q_u8(block.as_ptr())) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(veorq_u8(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn barrier(self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(barrier(self.0)) }
    }

    #[inline(always)]
    unsafe fn start(self, tweaks: Self, _key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { self.xor(tweaks) }
    }

    #[inline(always)]
    unsafe fn round<const ENCRYPT: bool>(self, before: Self, _key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => encrypt_round(self.0, before.0),
                false => decrypt_round(self.0, before.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn last_round<const ENCRYPT: bool>(self, before: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => last_encrypt_round(self.0, before.0),
                false => last_decrypt_round(self.0, before.0),
            })
            .xor(key)
        }
    }

    #[inline(always)]
    unsafe fn tweaks_at(first: &[u8; 16], index: usize, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(times_alpha(Self::splat(first).0, index)) }
    }

    #[inline(always)]
    unsafe fn next_tweaks(self, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(times_alpha_8(self.0)) }
    }
}
