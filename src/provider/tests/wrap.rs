use openssl::cipher::Cipher;
use openssl::cipher_ctx::{CipherCtx, CipherCtxFlags};
use proptest::prelude::*;
use ublk_targets::secret::{Dek, Kek, SecretError};

use super::*;
use crate::provider::wrap::{WRAPPED_DEK_LEN, WrapError, unwrap, unwrap_bytes, wrap, wrap_bytes};

fn dek(bytes: &[u8; 64]) -> Dek {
    Dek::from_secret(secret(bytes)).unwrap()
}

fn kek(bytes: &[u8; 32]) -> Kek {
    Kek::from_secret(secret(bytes)).unwrap()
}

/// AES-256 key wrap with padding as libcrypto does it.
fn libcrypto(mode: Mode, key: &[u8], input: &[u8]) -> Option<Vec<u8>> {
    let cipher = Cipher::fetch(None, "id-aes256-wrap-pad", None).unwrap();
    let mut context = CipherCtx::new().unwrap();
    context.set_flags(CipherCtxFlags::FLAG_WRAP_ALLOW);
    let mut output = vec![0; input.len() + 16];
    match mode {
        Mode::Wrap => context.encrypt_init(Some(&cipher), Some(key), None).unwrap(),
        Mode::Unwrap => context.decrypt_init(Some(&cipher), Some(key), None).unwrap(),
    }
    let count = context.cipher_update(input, Some(&mut output)).ok()?;
    output.truncate(count);
    Some(output)
}

enum Mode {
    Wrap,
    Unwrap,
}

proptest! {
    #[test]
    fn libcrypto_wraps_the_same(key: [u8; 32], plain in prop::array::uniform32(any::<[u8; 2]>())) {
        let plain: [u8; 64] = plain.concat().try_into().unwrap();
        let ours = wrap(&kek(&key), &dek(&plain)).unwrap();
        prop_assert_eq!(libcrypto(Mode::Wrap, &key, &plain).unwrap(), ours);
        prop_assert_eq!(libcrypto(Mode::Unwrap, &key, &ours).unwrap(), plain);
        prop_assert!(unwrap(&kek(&key), &ours).unwrap().expose() == plain);
    }

    #[test]
    fn no_changed_bit_is_overlooked(key: [u8; 32], bit in 0..WRAPPED_DEK_LEN * 8) {
        let kek = kek(&key);
        let mut wrapped = wrap(&kek, &Dek::generate().unwrap()).unwrap();
        wrapped[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(unwrap(&kek, &wrapped), Err(WrapError::OtherKek)));
    }
}

#[test]
fn another_kek_and_malformed_bytes_are_told_apart() {
    let (one, two) = (Kek::generate().unwrap(), Kek::generate().unwrap());
    let wrapped = wrap(&one, &Dek::generate().unwrap()).unwrap();
    assert!(matches!(unwrap(&two, &wrapped), Err(WrapError::OtherKek)));
    for length in [0, 8, 40, 71, 73, 80] {
        let bytes = vec![0; length];
        let error = unwrap(&one, &bytes).err().unwrap();
        assert!(matches!(error, WrapError::Length { found, expected: 72 } if found == length));
    }
}

#[test]
fn a_shorter_key_in_the_right_number_of_bytes_is_refused() {
    // 57 to 63 bytes are padded to 64 as well: the length is in the integrity block only.
    let key = [3; 32];
    let wrapped = libcrypto(Mode::Wrap, &key, &[5; 60]).unwrap();
    assert_eq!(wrapped.len(), WRAPPED_DEK_LEN);
    assert!(matches!(unwrap(&kek(&key), &wrapped), Err(WrapError::OtherKek)));
}

#[test]
fn rfc_5649_vectors_hold_for_the_library_below() {
    use aes_kw::{KeyInit, KwpAes192};
    // RFC 5649, section 6: a 192-bit KEK, 20 and 7 bytes of key.
    let kek = hex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
    let vectors = [
        (
            "c37b7e6492584340bed12207808941155068f738",
            "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
        ),
        ("466f7250617369", "afbeb0f07dfbf5419200f2ccb50bb24f"),
    ];
    for (plain, wrapped) in vectors {
        let mut buffer = [0; 64];
        let cipher = KwpAes192::new_from_slice(&kek).unwrap();
        assert_eq!(cipher.wrap_key(&hex(plain), &mut buffer).unwrap(), hex(wrapped));
        assert_eq!(cipher.unwrap_key(&hex(wrapped), &mut buffer).unwrap(), hex(plain));
    }
}

#[test]
fn other_lengths_wrap_as_libcrypto_does() {
    let plain = [9; 32];
    let ours: [u8; 40] = wrap_bytes(&[1; 32], &plain).unwrap();
    assert_eq!(libcrypto(Mode::Wrap, &[1; 32], &plain).unwrap(), ours);
    assert!(unwrap_bytes(&[1; 32], &ours, 32).unwrap().expose() == plain);
    assert!(matches!(wrap_bytes::<72>(&[1; 32], &plain), Err(WrapError::Length { .. })));
    assert!(matches!(Dek::from_secret(secret(&plain)), Err(SecretError::Length { .. })));
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
