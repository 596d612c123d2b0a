//! Published vectors of XTS-AES-256.

use super::*;

struct Vector {
    key: Vec<u8>,
    lba: u64,
    plain: Vec<u8>,
    cipher: Vec<u8>,
}

/// Reads blocks of four lines: a name and a value each.
fn parse(text: &str) -> Vec<Vector> {
    let values: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(' ')?.1))
        .collect();
    let bytes = |value: &str| hex::decode(value).unwrap();
    values
        .chunks_exact(4)
        .map(|v| Vector {
            key: bytes(v[0]),
            lba: v[1].parse().unwrap(),
            plain: bytes(v[2]),
            cipher: bytes(v[3]),
        })
        .collect()
}

/// A vector's data may be shorter than a sector: without ciphertext stealing, the first blocks of a data unit do not
/// depend on what follows them, so that it is checked as the beginning of a sector.
fn check(vectors: &[Vector], size: SectorSize) {
    for_each_path(|path| {
        for vector in vectors {
            // Past the check of keys: one of the vectors has a key of zeros.
            let cipher = Cipher::of_any_key(&vector.key, size, path).unwrap();
            for (from, to, encrypt) in
                [(&vector.plain, &vector.cipher, true), (&vector.cipher, &vector.plain, false)]
            {
                let mut sector = vec![0; size.bytes()];
                sector[..from.len()].copy_from_slice(from);
                match encrypt {
                    true => cipher.encrypt(vector.lba, &mut sector),
                    false => cipher.decrypt(vector.lba, &mut sector),
                }
                assert_eq!(sector[..to.len()], to[..], "{path}, sector size {size}, LBA {}", vector.lba);
            }
        }
    });
}

#[test]
fn ieee_1619() {
    let vectors = parse(include_str!("ieee1619.txt"));
    assert_eq!(vectors.len(), 5);
    assert!(vectors.iter().all(|vector| vector.plain.len() == 512));
    for size in SIZES {
        check(&vectors, size);
    }
}

#[test]
fn nist_cavp() {
    let vectors = parse(include_str!("nist_cavp.txt"));
    assert_eq!(vectors.len(), 20);
    for size in SIZES {
        check(&vectors, size);
    }
}
