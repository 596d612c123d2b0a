//! VAES on AVX-512: four blocks in a register.

use core::arch::asm;
use core::arch::x86_64::*;

use super::CARRY;
use crate::cipher::keys::RoundKeys;
use crate::cipher::run::Run;
use crate::cipher::xts::{self, Register};

/// Registers in flight.
const IN_FLIGHT: usize = 4;

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
pub(in crate::cipher) unsafe fn encrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Zmm, IN_FLIGHT, true>(keys, run) }
}

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "avx512f,avx512bw,vaes")]
pub(in crate::cipher) unsafe fn decrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Zmm, IN_FLIGHT, false>(keys, run) }
}

#[derive(Clone, Copy)]
struct Zmm(__m512i);

/// Adds what the bits `carry`, which a shift moved out at the top, contribute at the bottom beside themselves.
#[inline(always)]
unsafe fn reduce(shifted: __m512i, carry: __m512i) -> __m512i {
    // SAFETY: register operations only.
    unsafe {
        // Sums instead of shifts by one: any vector unit adds, while shifts wait for the units that AES uses.
        let times_2 = barrier(_mm512_add_epi64(carry, carry));
        let times_4 = _mm512_add_epi64(times_2, times_2);
        let times_128 = _mm512_slli_epi64::<7>(carry);
        _mm512_xor_si512(shifted, _mm512_ternarylogic_epi64::<0x96>(times_2, times_4, times_128))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn barrier(mut blocks: __m512i) -> __m512i {
    // SAFETY: the template is a comment.
    unsafe { asm!("/* {0} */", inout(zmm_reg) blocks, options(nostack, preserves_flags)) };
    blocks
}

impl Register for Zmm {
    const BLOCKS: usize = 4;
    const HOLDS_KEYS: bool = true;

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // SAFETY: as the trait says; the same holds below.
        unsafe { Self(_mm512_loadu_si512(source.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: see `load`.
        unsafe { _mm512_storeu_si512(target.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn splat(block: &[u8; 16]) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm512_broadcast_i32x4(_mm_loadu_si128(block.as_ptr().cast()))) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm512_xor_si512(self.0, other.0)) }
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
                true => _mm512_aesenc_epi128(self.0, key.0),
                false => _mm512_aesdec_epi128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn last_round<const ENCRYPT: bool>(self, _before: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => _mm512_aesenclast_epi128(self.0, key.0),
                false => _mm512_aesdeclast_epi128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn tweaks_at(first: &[u8; 16], index: usize, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            let first = Self::splat(first).0;
            let lanes = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
            let counts = _mm512_add_epi64(lanes, _mm512_set1_epi64((Self::BLOCKS * index) as i64));
            let carries = _mm512_srlv_epi64(first, _mm512_sub_epi64(_mm512_set1_epi64(64), counts));
            // The carry of each half of a block goes into the other half.
            let carries = _mm512_shuffle_epi32::<0x4E>(carries);
            let low_half = _mm512_set_epi64(0, -1, 0, -1, 0, -1, 0, -1);
            let shifted = _mm512_xor_si512(_mm512_sllv_epi64(first, counts), carries);
            Self(reduce(shifted, _mm512_and_si512(carries, low_half)))
        }
    }

    #[inline(always)]
    unsafe fn next_tweaks(self, _previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            const { assert!(IN_FLIGHT * Self::BLOCKS == 16) };
            let rotated = _mm512_alignr_epi8::<14>(self.0, self.0);
            Self(reduce(rotated, _mm512_and_si512(rotated, Self::splat(&CARRY).0)))
        }
    }
}
