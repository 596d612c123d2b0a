//! VAES on AVX2: two blocks in a register.

use core::arch::asm;
use core::arch::x86_64::*;

use super::CARRY;
use crate::cipher::keys::RoundKeys;
use crate::cipher::run::Run;
use crate::cipher::xts::{self, Register};

/// Registers in flight.
const IN_FLIGHT: usize = 8;

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "avx2,vaes")]
pub(in crate::cipher) unsafe fn encrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Ymm, IN_FLIGHT, true>(keys, run) }
}

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "avx2,vaes")]
pub(in crate::cipher) unsafe fn decrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Ymm, IN_FLIGHT, false>(keys, run) }
}

#[derive(Clone, Copy)]
struct Ymm(__m256i);

/// Adds what the bits `carry`, which a shift moved out at the top, contribute at the bottom beside themselves.
#[inline(always)]
unsafe fn reduce(shifted: __m256i, carry: __m256i) -> __m256i {
    // SAFETY: register operations only.
    unsafe {
        // Sums instead of shifts by one: any vector unit adds, while shifts wait for the units that AES uses.
        let times_2 = barrier(_mm256_add_epi64(carry, carry));
        let times_4 = _mm256_add_epi64(times_2, times_2);
        let times_128 = _mm256_slli_epi64::<7>(carry);
        _mm256_xor_si256(_mm256_xor_si256(shifted, times_128), _mm256_xor_si256(times_2, times_4))
    }
}

#[inline]
#[target_feature(enable = "avx")]
fn barrier(mut blocks: __m256i) -> __m256i {
    // SAFETY: the template is a comment.
    unsafe { asm!("/* {0} */", inout(ymm_reg) blocks, options(nostack, preserves_flags)) };
    blocks
}

impl Register for Ymm {
    const BLOCKS: usize = 2;
    const HOLDS_KEYS: bool = false;

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // An instruction of its own, and no operand of the next one: CPUs take the same time, emulators less.
        // SAFETY: as the trait says; the same holds below.
        unsafe { Self(barrier(_mm256_loadu_si256(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: see `load`.
        unsafe { _mm256_storeu_si256(target.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn splat(block: &[u8; 16]) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm256_broadcastsi128_si256(_mm_loadu_si128(block.as_ptr().cast()))) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm256_xor_si256(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn barrier(self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(barrier(self.0)) }
    }

    #[inline(always)]
    unsafe fn start(self, tweaks: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { self.xor(key.xor(tweaks)) }
    }

    #[inline(always)]
    unsafe fn round<const ENCRYPT: bool>(self, _before: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => _mm256_aesenc_epi128(self.0, key.0),
                false => _mm256_aesdec_epi128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn last_round<const ENCRYPT: bool>(self, _before: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => _mm256_aesenclast_epi128(self.0, key.0),
                false => _mm256_aesdeclast_epi128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn tweaks_at(first: &[u8; 16], index: usize, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            let first = Self::splat(first).0;
            let lanes = _mm256_set_epi64x(1, 1, 0, 0);
            let counts = _mm256_add_epi64(lanes, _mm256_set1_epi64x((Self::BLOCKS * index) as i64));
            let carries = _mm256_srlv_epi64(first, _mm256_sub_epi64(_mm256_set1_epi64x(64), counts));
            // The carry of each half of a block goes into the other half.
            let carries = _mm256_shuffle_epi32::<0x4E>(carries);
            let low_half = _mm256_set_epi64x(0, -1, 0, -1);
            let shifted = _mm256_xor_si256(_mm256_sllv_epi64(first, counts), carries);
            Self(reduce(shifted, _mm256_and_si256(carries, low_half)))
        }
    }

    #[inline(always)]
    unsafe fn next_tweaks(self, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            const { assert!(IN_FLIGHT * Self::BLOCKS == 16) };
            // Left to itself, the compiler makes a blend of the mask, which is no faster, and slow where emulated.
            let rotated = barrier(_mm256_alignr_epi8::<14>(self.0, self.0));
            let carry = _mm256_and_si256(rotated, Self::splat(&CARRY).barrier().0);
            Self(reduce(rotated, carry))
        }
    }
}
