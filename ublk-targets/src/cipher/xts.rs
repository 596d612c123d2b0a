//! XTS over a run of sectors (IEEE 1619-2007, 5.3 and 5.4), for any width of register.
//!
//! Every function here is inlined into a kernel's entry point, which is compiled for the kernel's instructions.

use core::arch::asm;

use super::SectorSize;
use super::keys::{ROUNDS, RoundKeys, Schedule};
use super::run::Run;

/// One block, and its tweak.
type Block = [u8; 16];

/// How many sectors' tweaks are encrypted together: enough to keep the widest registers busy, few enough to leave
/// little stack to scrub.
const SECTORS: usize = 32;

/// The tweaks of the first block of each sector.
#[repr(align(64))]
struct FirstTweaks([Block; SECTORS]);

/// A register that holds one or more blocks.
///
/// # Safety
/// Every method needs the CPU features of its kernel. `load` and `store` need [`BLOCKS`](Self::BLOCKS) blocks of
/// valid memory, of any alignment.
pub(super) trait Register: Copy {
    /// Blocks in a register.
    const BLOCKS: usize;
    /// Whether there are registers enough to hold all round keys during a run.
    const HOLDS_KEYS: bool;

    /// Reads a register from memory.
    unsafe fn load(source: *const u8) -> Self;
    /// Writes the register to memory.
    unsafe fn store(self, target: *mut u8);
    /// One block in every place.
    unsafe fn splat(block: &Block) -> Self;
    /// Bitwise exclusive or.
    unsafe fn xor(self, other: Self) -> Self;
    /// No instruction, but for the compiler a step that cannot be moved across another. Without it, the compiler
    /// works on one register after the other, and computes tweaks apart from the rounds, so that the AES units wait.
    unsafe fn barrier(self) -> Self;
    /// Masks blocks of data with `tweaks` before the first round, and with the first key, `key`, unless the first
    /// round adds that.
    unsafe fn start(self, tweaks: Self, key: Self) -> Self;
    /// An inner round of AES (FIPS 197, 5.1) or of its equivalent inverse (5.3.5). An instruction that ends with a
    /// round's key takes `key`; one that begins with the key of the round before takes `before`, and so is always one
    /// key behind. The key that a CPU does not take costs it nothing.
    unsafe fn round<const ENCRYPT: bool>(self, before: Self, key: Self) -> Self;
    /// The last round. `key` has a block's tweak in it, and is added in any case.
    unsafe fn last_round<const ENCRYPT: bool>(self, before: Self, key: Self) -> Self;
    /// The tweaks of register `index` of a sector: `first` times alpha to the number of each block. `previous` are
    /// the tweaks of the register before, if there is one.
    unsafe fn tweaks_at(first: &Block, index: usize, previous: Self) -> Self;
    /// The tweaks of the same register in the next group: `self` times alpha to the number of blocks in a group, or
    /// `previous`, the tweaks of the register before, times alpha to the number of blocks in a register.
    unsafe fn next_tweaks(self, previous: Self) -> Self;
}

/// Repeats a block with a constant, so that arrays of registers are indexed by constants only.
macro_rules! unroll {
    ($index:ident in [$($value:literal)*] $body:block) => { $( { const $index: usize = $value; $body } )* };
}

/// Encrypts or decrypts the sectors of `run` with `N` registers in flight.
///
/// # Safety
/// The CPU has the features of `R`, and `run` describes valid memory.
#[inline(always)]
pub(super) unsafe fn run<R: Register, const N: usize, const ENCRYPT: bool>(keys: &RoundKeys, run: Run) {
    let data_keys = if ENCRYPT { &keys.encrypt } else { &keys.decrypt };
    let mut first_tweaks = FirstTweaks([[0; 16]; SECTORS]);
    let (mut lba, mut left) = (run.first_lba, run.sectors);
    let (mut source, mut target) = (run.source, run.target);
    while left > 0 {
        let count = left.min(SECTORS);
        for tweak in &mut first_tweaks.0[..count] {
            *tweak = u128::from(lba).to_le_bytes();
            lba = lba.wrapping_add(run.sector_size.lbas());
        }
        // SAFETY: the caller answers for the CPU and the memory; `source` and `target` move on by whole sectors.
        unsafe {
            encrypt_tweaks::<R, N>(&keys.tweak, &mut first_tweaks, count);
            let mut tweaks = sector_tweaks::<R, N>(&first_tweaks.0[0]);
            for i in 0..count {
                // After the last sector there is none to prepare; any tweak will do.
                let next = &first_tweaks.0[(i + 1) % SECTORS];
                tweaks = match run.sector_size {
                    SectorSize::S512 => sector::<R, N, 512, ENCRYPT>(data_keys, tweaks, next, source, target),
                    SectorSize::S4096 => {
                        sector::<R, N, 4096, ENCRYPT>(data_keys, tweaks, next, source, target)
                    }
                };
                source = source.add(run.sector_size.bytes());
                target = target.add(run.sector_size.bytes());
            }
        }
        left -= count;
    }
}

/// Encrypts sector numbers to the tweaks of each sector's first block; those after `count` may be encrypted too.
///
/// # Safety
/// The CPU has the features of `R`.
#[inline(always)]
unsafe fn encrypt_tweaks<R: Register, const N: usize>(
    keys: &Schedule,
    tweaks: &mut FirstTweaks,
    count: usize,
) {
    const { assert!(SECTORS.is_multiple_of(N * R::BLOCKS)) };
    let start = tweaks.0.as_mut_ptr().cast::<u8>();
    for at in (0..count).step_by(N * R::BLOCKS) {
        // SAFETY: a group is within the array, whose length is a multiple of it.
        unsafe {
            let group_start = start.add(at * size_of::<Block>());
            let none = [R::splat(&[0; 16]); N];
            group::<R, N, true, false>(anew(keys), none, &[0; 16], group_start, group_start);
        }
    }
}

/// The tweaks of a sector's first group.
///
/// # Safety
/// The CPU has the features of `R`.
#[inline(always)]
unsafe fn sector_tweaks<R: Register, const N: usize>(first: &Block) -> [R; N] {
    // SAFETY: as the caller says.
    unsafe {
        let mut tweak = R::splat(first);
        let mut tweaks = [tweak; N];
        for (i, slot) in tweaks.iter_mut().enumerate() {
            tweak = R::tweaks_at(first, i, tweak);
            *slot = tweak;
        }
        tweaks
    }
}

/// One sector of `BYTES` bytes, whose first group has `tweaks`. Returns those of the next sector, which begin with
/// the block `next`.
///
/// # Safety
/// The CPU has the features of `R`; `source` and `target` hold `BYTES` bytes.
#[inline(always)]
unsafe fn sector<R: Register, const N: usize, const BYTES: usize, const ENCRYPT: bool>(
    keys: &Schedule,
    mut tweaks: [R; N],
    next: &Block,
    source: *const u8,
    target: *mut u8,
) -> [R; N] {
    let group_bytes = N * R::BLOCKS * size_of::<Block>();
    let last = BYTES - group_bytes;
    let mut at = 0;
    // SAFETY: the groups add up to a sector.
    unsafe {
        while at < last {
            tweaks = group::<R, N, ENCRYPT, false>(keys, tweaks, next, source.add(at), target.add(at));
            at += group_bytes;
        }
        group::<R, N, ENCRYPT, true>(keys, tweaks, next, source.add(last), target.add(last))
    }
}

/// The same reference, but the compiler does not know it. So round keys are read from their page for each group,
/// which costs nothing, and not once for all groups into copies on the stack.
#[inline(always)]
fn anew(keys: &Schedule) -> &Schedule {
    let mut address: *const Schedule = keys;
    // SAFETY: the template is a comment; the address stays what it was.
    unsafe {
        asm!("/* {0} */", inout(reg) address, options(readonly, nostack, preserves_flags));
        &*address
    }
}

/// `N` registers of blocks: mask, cipher, mask. Returns the tweaks of the next group, in this sector or, after its
/// `LAST` group, in the next; they are computed between the rounds, by units that AES leaves idle.
///
/// # Safety
/// The CPU has the features of `R`; `source` and `target` hold `N` registers.
#[inline(always)]
unsafe fn group<R: Register, const N: usize, const ENCRYPT: bool, const LAST: bool>(
    keys: &Schedule,
    mut tweaks: [R; N],
    next: &Block,
    source: *const u8,
    target: *mut u8,
) -> [R; N] {
    let width = R::BLOCKS * size_of::<Block>();
    let keys = if R::HOLDS_KEYS { keys } else { anew(keys) };
    // SAFETY: as the caller says.
    unsafe {
        let key = R::splat(&keys.0[0]);
        let last_key = R::splat(&keys.0[ROUNDS]);
        let (mut blocks, mut last_keys) = (tweaks, tweaks);
        for i in 0..N {
            blocks[i] = R::load(source.add(i * width)).start(tweaks[i], key);
            last_keys[i] = tweaks[i].xor(last_key);
        }
        unroll!(ROUND in [1 2 3 4 5 6 7 8 9 10 11 12 13] {
            let (before, key) = (R::splat(&keys.0[ROUND - 1]), R::splat(&keys.0[ROUND]));
            for block in &mut blocks {
                *block = block.round::<ENCRYPT>(before, key).barrier();
            }
            if ROUND <= N {
                let i = ROUND - 1;
                let (before, now) = (tweaks[(i + N - 1) % N], tweaks[i].barrier());
                tweaks[i] = if LAST { R::tweaks_at(next, i, before) } else { now.next_tweaks(before) }.barrier();
            }
        });
        let before = R::splat(&keys.0[ROUNDS - 1]);
        for i in 0..N {
            blocks[i].last_round::<ENCRYPT>(before, last_keys[i]).store(target.add(i * width));
        }
    }
    tweaks
}
