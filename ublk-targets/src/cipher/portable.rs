//! AES-256-XTS by the `aes` crate's batches of blocks, without unsafe code.

use aes::cipher::array::Array;
use aes::cipher::inout::InOutBuf;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};

use super::SectorSize;
use super::registers::scrub_registers;
use super::run::Direction;
use crate::secret::{SecretBox, SecretError};

/// Blocks that go to the `aes` crate in one call: a multiple of what its widest code has in flight, and few enough
/// for them and their tweaks to stay in the first-level cache. A 512-byte sector has half as many.
const BATCH: usize = 64;

/// The data key, both ways, and the tweak key, which only ever encrypts (IEEE 1619-2007, 5.3 and 5.4).
pub(super) struct Keys {
    data: Aes256,
    tweak: Aes256Enc,
}

/// Expands the 64 bytes of a data encryption key into a secret page. The caller scrubs the stack.
#[inline(never)]
pub(super) fn expand(dek: &[u8]) -> Result<SecretBox<Keys>, SecretError> {
    let (keys, _) = Array::slice_as_chunks(dek);
    // SAFETY: the slot is written once, with keys that own no memory but their own bytes.
    let expanded = unsafe {
        SecretBox::new_with(|slot| {
            slot.write(Keys { data: Aes256::new(&keys[0]), tweak: Aes256Enc::new(&keys[1]) });
        })
    };
    // Here, not by the caller: gaps of what it makes of the answer may be filled with whatever a register holds.
    scrub_registers();
    expanded
}

/// Encrypts or decrypts whole sectors. The caller scrubs the stack.
#[inline(never)]
pub(super) fn run(
    keys: &Keys,
    direction: Direction,
    sector_size: SectorSize,
    first_lba: u64,
    data: InOutBuf<'_, '_, u8>,
) {
    let blocks_a_sector = sector_size.bytes() / size_of::<Block>();
    let (mut rest, _) = data.into_chunks();
    let mut lba = first_lba;
    while !rest.is_empty() {
        let sectors = BATCH.min(rest.len() / blocks_a_sector);
        let mut tweaks = [Block::default(); BATCH];
        for tweak in &mut tweaks[..sectors] {
            *tweak = block(lba.into());
            lba = lba.wrapping_add(sector_size.lbas());
        }
        keys.tweak.encrypt_blocks(&mut tweaks[..sectors]);
        let (now, later) = rest.split_at(sectors * blocks_a_sector);
        run_sectors(&keys.data, direction, &tweaks[..sectors], now);
        rest = later;
    }
}

/// Encrypts or decrypts as many sectors as there are `tweaks`, which are those of each sector's first block.
fn run_sectors(key: &Aes256, direction: Direction, tweaks: &[Block], data: InOutBuf<'_, '_, Block>) {
    let blocks_a_sector = data.len() / tweaks.len();
    let mut sector_tweaks = tweaks.iter();
    let (mut tweak, mut left) = (0, 0);
    let mut rest = data;
    while !rest.is_empty() {
        let count = BATCH.min(rest.len());
        let mut mask = [Block::default(); BATCH];
        for slot in &mut mask[..count] {
            if left == 0 {
                tweak = sector_tweaks.next().map_or(0, |first| u128::from_le_bytes(first.0));
                left = blocks_a_sector;
            }
            *slot = block(tweak);
            tweak = double(tweak);
            left -= 1;
        }
        let (now, later) = rest.split_at(count);
        run_batch(key, direction, &mask[..count], now);
        rest = later;
    }
}

/// The XEX construction: mask, cipher, mask (IEEE 1619-2007, 5.3.1).
fn run_batch(key: &Aes256, direction: Direction, mask: &[Block], mut data: InOutBuf<'_, '_, Block>) {
    for (i, mask) in mask.iter().enumerate() {
        data.get(i).xor_in2out(mask);
    }
    let blocks = data.into_out();
    match direction {
        Direction::Encrypt => key.encrypt_blocks(blocks),
        Direction::Decrypt => key.decrypt_blocks(blocks),
    }
    for (block, mask) in blocks.iter_mut().zip(mask) {
        *block = block_xor(block, mask);
    }
}

/// Multiplication by alpha in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619-2007, 5.2), without a branch.
fn double(tweak: u128) -> u128 {
    (tweak << 1) ^ (0x87 * (tweak >> 127))
}

fn block(number: u128) -> Block {
    Array(number.to_le_bytes())
}

fn block_xor(a: &Block, b: &Block) -> Block {
    block(u128::from_le_bytes(a.0) ^ u128::from_le_bytes(b.0))
}
