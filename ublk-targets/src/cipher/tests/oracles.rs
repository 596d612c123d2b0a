//! Random runs of sectors against libcrypto and `xts-mode`, a sector at a time.

use aes::Aes256;
use aes::cipher::{Array, KeyInit};
use openssl::symm;
use proptest::prelude::*;
use xts_mode::Xts128;

use super::*;

/// The tweak as dm-crypt's plain64 defines it, written down apart from the cipher under test.
fn plain64(lba: u64) -> [u8; 16] {
    let mut tweak = [0; 16];
    tweak[..8].copy_from_slice(&lba.to_le_bytes());
    tweak
}

fn lba_of(first: u64, sector: usize, size: SectorSize) -> u64 {
    first.wrapping_add((sector * size.bytes() / 512) as u64)
}

fn libcrypto(mode: symm::Mode, key: &[u8], first_lba: u64, size: SectorSize, data: &[u8]) -> Vec<u8> {
    let mut result = Vec::new();
    for (i, sector) in data.chunks(size.bytes()).enumerate() {
        let tweak = plain64(lba_of(first_lba, i, size));
        let mut crypter = symm::Crypter::new(symm::Cipher::aes_256_xts(), mode, key, Some(&tweak)).unwrap();
        let mut output = vec![0; sector.len() + 16];
        let count = crypter.update(sector, &mut output).unwrap();
        assert_eq!(count, sector.len());
        result.extend_from_slice(&output[..count]);
    }
    result
}

fn xts_mode_encrypt(key: &[u8], first_lba: u64, size: SectorSize, data: &[u8]) -> Vec<u8> {
    let aes = |half: &[u8]| Aes256::new(&Array::try_from(half).unwrap());
    let xts = Xts128::new(aes(&key[..32]), aes(&key[32..]));
    let mut result = data.to_vec();
    for (i, sector) in result.chunks_mut(size.bytes()).enumerate() {
        xts.encrypt_sector(sector, Array(plain64(lba_of(first_lba, i, size))));
    }
    result
}

/// A buffer whose data starts `offset` bytes after a multiple of 64.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(offset: usize, data: &[u8]) -> Self {
        let bytes = vec![0xA5; data.len() + 128];
        let start = bytes.as_ptr().align_offset(64) + offset;
        let mut this = Self { bytes, start, len: data.len() };
        this.get().copy_from_slice(data);
        this
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }

    fn assert_untouched_outside(&self) {
        let (before, after) = (&self.bytes[..self.start], &self.bytes[self.start + self.len..]);
        assert!(before.iter().chain(after).all(|&byte| byte == 0xA5));
    }
}

/// All four calls on one run, on one path, against the expected ciphertext.
fn check(cipher: &Cipher, lba: u64, plain: &[u8], expected: &[u8], offset: usize) {
    let path = cipher.cpu_path();
    let mut in_place = Aligned::new(offset, plain);
    cipher.encrypt(lba, in_place.get());
    assert!(in_place.get() == expected, "{path}: encrypt in place");
    cipher.decrypt(lba, in_place.get());
    assert!(in_place.get() == plain, "{path}: decrypt in place");
    in_place.assert_untouched_outside();

    let mut source = Aligned::new(63 - offset, plain);
    let mut target = Aligned::new(offset, &vec![0; plain.len()]);
    cipher.encrypt_to(lba, source.get(), target.get());
    assert!(target.get() == expected, "{path}: encrypt into another buffer");
    assert!(source.get() == plain, "{path}: encrypt into another buffer changes the source");
    source.get().copy_from_slice(expected);
    cipher.decrypt_to(lba, source.get(), target.get());
    assert!(target.get() == plain, "{path}: decrypt into another buffer");
    target.assert_untouched_outside();
}

fn random_dek_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 64).prop_filter("halves differ", |key| key[..32] != key[32..])
}

fn lbas() -> impl Strategy<Value = u64> {
    let near = |middle: u64| (middle - 80)..=(middle + 80);
    prop_oneof![
        0..200u64,
        near(1 << 32),
        near(1 << 40),
        near(1 << 63),
        (u64::MAX - 300)..=u64::MAX,
        any::<u64>()
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_path_equals_libcrypto_and_xts_mode(
        key in random_dek_bytes(),
        lba in lbas(),
        size in prop::sample::select(&SIZES[..]),
        sectors in 0..150usize,
        offset in 0..64usize,
        seed in any::<u64>(),
    ) {
        let sectors = if size == SectorSize::S4096 { sectors / 4 } else { sectors };
        let plain = noise(seed, sectors * size.bytes());
        let expected = libcrypto(symm::Mode::Encrypt, &key, lba, size, &plain);
        prop_assert_eq!(&expected, &xts_mode_encrypt(&key, lba, size, &plain));
        let dek = dek(&key);
        for_each_path(|path| {
            let cipher = Cipher::new(&dek, size, Some(path)).unwrap();
            check(&cipher, lba, &plain, &expected, offset);
        });
    }
}

/// Counts on both sides of a whole batch of tweaks, and an alignment each.
#[test]
fn every_alignment_and_counts_around_a_batch() {
    let key = noise(1, 64);
    let dek = dek(&key);
    let lbas = [0, 1 << 40, (1 << 63) - 8, u64::MAX - 71 * 8];
    for size in SIZES {
        for offset in 0..64 {
            let sectors = [0, 1, 2, 3, 5, 16, 17, 31, 32, 33, 64, 65, 66][offset % 13];
            let sectors = if size == SectorSize::S4096 { sectors.min(33) } else { sectors };
            let plain = noise(2, sectors * size.bytes());
            let lba = lbas[offset % lbas.len()];
            let expected = libcrypto(symm::Mode::Encrypt, &key, lba, size, &plain);
            for_each_path(|path| {
                let cipher = Cipher::new(&dek, size, Some(path)).unwrap();
                check(&cipher, lba, &plain, &expected, offset);
            });
        }
    }
}

#[test]
fn decryption_of_any_bytes_equals_libcrypto() {
    let key = noise(3, 64);
    let data = noise(4, 16 * 4096);
    for size in SIZES {
        let expected = libcrypto(symm::Mode::Decrypt, &key, 77, size, &data);
        for_each_path(|path| {
            let mut copy = data.clone();
            Cipher::new(&dek(&key), size, Some(path)).unwrap().decrypt(77, &mut copy);
            assert!(copy == expected, "{path}, sector size {size}");
        });
    }
}

/// Bytes without a pattern that a seed gives again: a 64-bit linear congruential generator's upper bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}
