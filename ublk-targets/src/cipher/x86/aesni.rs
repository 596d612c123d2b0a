//! AES-NI: one block in a register.

use core::arch::asm;
use core::arch::x86_64::*;

use crate::cipher::keys::RoundKeys;
use crate::cipher::run::Run;
use crate::cipher::xts::{self, Register};

/// Registers in flight.
const IN_FLIGHT: usize = 8;

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "aes,avx")]
pub(in crate::cipher) unsafe fn encrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Xmm, IN_FLIGHT, true>(keys, run) }
}

/// # Safety
/// The CPU has the features below, and `run` describes valid memory.
#[target_feature(enable = "aes,avx")]
pub(in crate::cipher) unsafe fn decrypt(keys: &RoundKeys, run: Run) {
    // SAFETY: as the caller says.
    unsafe { xts::run::<Xmm, IN_FLIGHT, false>(keys, run) }
}

#[derive(Clone, Copy)]
struct Xmm(__m128i);

impl Xmm {
    /// Each half is doubled; the top bit of each half, spread over 32 bits by an arithmetic shift, selects what is
    /// added at the bottom of the other half: 1, or the polynomial.
    #[inline(always)]
    unsafe fn times_alpha(self) -> Self {
        // SAFETY: register operations only.
        unsafe {
            let top_bits = _mm_srai_epi32::<31>(_mm_shuffle_epi32::<0x13>(self.0));
            let carries = _mm_and_si128(top_bits, _mm_set_epi32(0, 1, 0, 0x87));
            Self(_mm_xor_si128(_mm_add_epi64(self.0, self.0), carries))
        }
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn barrier(mut blocks: __m128i) -> __m128i {
    // SAFETY: the template is a comment.
    unsafe { asm!("/* {0} */", inout(xmm_reg) blocks, options(nostack, preserves_flags)) };
    blocks
}

impl Register for Xmm {
    const BLOCKS: usize = 1;
    const HOLDS_KEYS: bool = false;

    #[inline(always)]
    unsafe fn load(source: *const u8) -> Self {
        // SAFETY: as the trait says; the same holds below.
        unsafe { Self(_mm_loadu_si128(source.cast())) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut u8) {
        // SAFETY: see `load`.
        unsafe { _mm_storeu_si128(target.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn splat(block: &[u8; 16]) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm_loadu_si128(block.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { Self(_mm_xor_si128(self.0, other.0)) }
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
                true => _mm_aesenc_si128(self.0, key.0),
                false => _mm_aesdec_si128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn last_round<const ENCRYPT: bool>(self, _before: Self, key: Self) -> Self {
        // SAFETY: see `load`.
        unsafe {
            Self(match ENCRYPT {
                true => _mm_aesenclast_si128(self.0, key.0),
                false => _mm_aesdeclast_si128(self.0, key.0),
            })
        }
    }

    #[inline(always)]
    unsafe fn tweaks_at(first: &[u8; 16], index: usize, previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { if index == 0 { Self::splat(first) } else { previous.times_alpha() } }
    }

    #[inline(always)]
    unsafe fn next_tweaks(self, previous: Self) -> Self {
        // SAFETY: see `load`.
        unsafe { previous.times_alpha() }
    }
}
