//! Every path against outside oracles: published vectors, libcrypto and `xts-mode`.

mod oracles;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod traces;
mod vectors;

use super::engine::Engine;
use super::run::Direction;
use super::*;
use crate::secret::Dek;
use std::os::fd::AsFd;

use crate::secret::{LockKind, Secret};

const SIZES: [SectorSize; 2] = [SectorSize::S512, SectorSize::S4096];

fn dek(bytes: &[u8]) -> Dek {
    let mut secret = Secret::zeroed(bytes.len()).unwrap();
    secret.expose_mut().copy_from_slice(bytes);
    Dek::from_secret(secret).unwrap()
}

fn for_each_path(mut check: impl FnMut(CpuPath)) {
    let paths = CpuPath::available();
    assert!(paths.contains(&CpuPath::Portable));
    paths.into_iter().for_each(&mut check);
}

#[test]
fn sector_sizes_are_numbers_outside() {
    for (size, bytes) in [(SectorSize::S512, 512), (SectorSize::S4096, 4096)] {
        assert_eq!(SectorSize::try_from(bytes).unwrap(), size);
        assert_eq!(size.bytes(), bytes as usize);
        assert_eq!(size.bytes(), 1 << size.shift());
        assert_eq!(size.lbas() * 512, u64::from(bytes));
        assert_eq!(size.to_string(), bytes.to_string());
        assert_eq!(serde_json::to_string(&size).unwrap(), bytes.to_string());
        assert_eq!(serde_json::from_str::<SectorSize>(&bytes.to_string()).unwrap(), size);
    }
    assert_eq!(
        SectorSize::try_from(1024).unwrap_err().to_string(),
        "sector size 1024 is neither 512 nor 4096"
    );
    assert!(serde_json::from_str::<SectorSize>("520").is_err());
}

#[test]
fn paths_have_the_names_of_the_option() {
    for path in CpuPath::ALL {
        assert_eq!(path.to_string().parse::<CpuPath>().unwrap(), path);
    }
    assert_eq!("avx".parse::<CpuPath>().unwrap_err().to_string(), "no CPU path is called \"avx\"");
    assert!(CpuPath::available().contains(&CpuPath::detect()));
}

#[test]
fn a_path_that_the_cpu_lacks_is_refused() {
    let dek = Dek::generate().unwrap();
    for path in CpuPath::ALL {
        let made = Cipher::new(&dek, SectorSize::S512, Some(path));
        match made {
            Ok(cipher) => assert_eq!(cipher.cpu_path(), path),
            Err(error) => assert!(!path.is_available(), "{error}"),
        }
    }
}

#[test]
fn a_key_that_was_wiped_is_refused() {
    for bytes in [[0; 64], [7; 64]] {
        let mut secret = Secret::zeroed(64).unwrap();
        secret.expose_mut().copy_from_slice(&bytes);
        assert!(matches!(Dek::from_secret(secret), Err(SecretError::WeakDek(_))));
    }
    // One that is wiped by whoever handed it over, after it was taken.
    let whole = Dek::generate().unwrap();
    let shared = whole.share().unwrap();
    let taken = Dek::from_fd(shared.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let kind = shared.kind();
    drop(shared);
    let made = Cipher::new(&taken, SectorSize::S4096, None);
    match kind {
        LockKind::MemfdSecret => assert!(matches!(made, Err(CipherError::Key(SecretError::WeakDek(_))))),
        LockKind::Mlock => assert!(made.is_ok(), "a copy of its own"),
    }
}

#[test]
#[should_panic(expected = "513 bytes are not whole sectors of 512")]
fn part_of_a_sector_is_a_programmers_error() {
    let cipher = Cipher::new(&Dek::generate().unwrap(), SectorSize::S512, None).unwrap();
    cipher.encrypt(0, &mut [0; 513]);
}

#[test]
#[should_panic(expected = "differ in length")]
fn buffers_of_unequal_length_are_a_programmers_error() {
    let cipher = Cipher::new(&Dek::generate().unwrap(), SectorSize::S512, None).unwrap();
    cipher.encrypt_to(0, &[0; 1024], &mut [0; 512]);
}
