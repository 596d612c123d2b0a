//! AES-256-XTS by blkseal's kernels and by what one would use instead, behind one face.

use std::ffi::c_int;
use std::ptr;

use aes::Aes256;
use aes::cipher::{Array, KeyInit};
use openssl::cipher::Cipher as OpensslCipher;
use openssl::cipher_ctx::CipherCtx;
use ublk_targets::cipher::{Cipher, CpuPath, SectorSize};
use ublk_targets::secret::{Dek, Secret};
use xts_mode::Xts128;

use crate::raw::Width;

/// What can go wrong before a measurement.
pub type Error = Box<dyn std::error::Error>;

/// Encrypts (`true`) or decrypts sectors in place, the first at an LBA.
type Run = dyn FnMut(bool, u64, &mut [u8]);

/// An implementation of AES-256-XTS, keyed and set to a sector size.
pub struct Contestant {
    /// How it is called in tables.
    pub name: String,
    /// The AES instruction that it uses, as far as this CPU has it; `None` for no instruction that we know of.
    pub width: Option<Width>,
    run: Box<Run>,
}

impl Contestant {
    /// Encrypts sectors in place, the first at `lba` in units of 512 bytes.
    pub fn encrypt(&mut self, lba: u64, data: &mut [u8]) {
        (self.run)(true, lba, data);
    }

    /// Decrypts sectors in place.
    pub fn decrypt(&mut self, lba: u64, data: &mut [u8]) {
        (self.run)(false, lba, data);
    }
}

/// Every implementation that runs here: blkseal's paths first, the fastest at the head.
pub fn all(size: SectorSize) -> Result<Vec<Contestant>, Error> {
    let key = key();
    let mut all =
        CpuPath::available().into_iter().map(|path| blkseal(size, path)).collect::<Result<Vec<_>, _>>()?;
    all.push(xts_mode(&key, size)?);
    all.push(openssl(&key, size)?);
    all.push(aws_lc(&key, size)?);
    Ok(all)
}

fn key() -> Vec<u8> {
    (0..64).map(|i: u8| i.wrapping_mul(37)).collect()
}

/// blkseal's own cipher on one path.
pub fn blkseal(size: SectorSize, path: CpuPath) -> Result<Contestant, Error> {
    let key = key();
    let mut secret = Secret::zeroed(key.len())?;
    secret.expose_mut().copy_from_slice(&key);
    let cipher = Cipher::new(&Dek::from_secret(secret)?, size, Some(path))?;
    let width = match path {
        CpuPath::Vaes512 => Some(Width::Bits512),
        CpuPath::Vaes256 => Some(Width::Bits256),
        CpuPath::AesNi | CpuPath::Neon => Some(Width::Bits128),
        CpuPath::Portable => Width::widest(),
    };
    let run = Box::new(move |encrypt: bool, lba: u64, data: &mut [u8]| match encrypt {
        true => cipher.encrypt(lba, data),
        false => cipher.decrypt(lba, data),
    });
    Ok(Contestant { name: format!("blkseal {path}"), width, run })
}

fn xts_mode(key: &[u8], size: SectorSize) -> Result<Contestant, Error> {
    let half = |bytes: &[u8]| Ok::<_, Error>(Aes256::new(&Array::try_from(bytes)?));
    let xts = Xts128::new(half(&key[..32])?, half(&key[32..])?);
    let run = Box::new(move |encrypt: bool, lba: u64, data: &mut [u8]| {
        for (tweak, sector) in sectors(size, lba, data) {
            match encrypt {
                true => xts.encrypt_sector(sector, Array(tweak)),
                false => xts.decrypt_sector(sector, Array(tweak)),
            }
        }
    });
    Ok(Contestant { name: "aes + xts-mode".into(), width: Width::widest(), run })
}

/// One context a direction, keyed once; a new tweak and one update a sector.
fn openssl(key: &[u8], size: SectorSize) -> Result<Contestant, Error> {
    let mut encrypter = CipherCtx::new()?;
    encrypter.encrypt_init(Some(OpensslCipher::aes_256_xts()), Some(key), None)?;
    let mut decrypter = CipherCtx::new()?;
    decrypter.decrypt_init(Some(OpensslCipher::aes_256_xts()), Some(key), None)?;
    let run = Box::new(move |encrypt: bool, lba: u64, data: &mut [u8]| {
        for (tweak, sector) in sectors(size, lba, data) {
            let done = match encrypt {
                true => encrypter
                    .encrypt_init(None, None, Some(&tweak))
                    .and_then(|()| encrypter.cipher_update_inplace(sector, sector.len())),
                false => decrypter
                    .decrypt_init(None, None, Some(&tweak))
                    .and_then(|()| decrypter.cipher_update_inplace(sector, sector.len())),
            };
            assert!(done.is_ok_and(|count| count == sector.len()), "OpenSSL failed");
        }
    });
    let name = openssl::version::version().split(' ').take(2).collect::<Vec<_>>().join(" ");
    Ok(Contestant { name, width: Width::widest(), run })
}

/// An EVP context of AWS-LC with a key in it.
struct AwsLcContext(*mut aws_lc_sys::EVP_CIPHER_CTX);

impl AwsLcContext {
    fn new(key: &[u8], encrypt: c_int) -> Result<Self, Error> {
        assert_eq!(key.len(), 64);
        // SAFETY: a new context is initialised with a key of the cipher's length.
        unsafe {
            let this = Self(aws_lc_sys::EVP_CIPHER_CTX_new());
            let cipher = aws_lc_sys::EVP_aes_256_xts();
            let done = aws_lc_sys::EVP_CipherInit_ex(
                this.0,
                cipher,
                ptr::null_mut(),
                key.as_ptr(),
                ptr::null(),
                encrypt,
            );
            if done == 1 { Ok(this) } else { Err("AWS-LC takes no AES-256-XTS key".into()) }
        }
    }

    fn sector(&mut self, tweak: &[u8; 16], sector: &mut [u8]) {
        let mut count: c_int = 0;
        // SAFETY: the context has its key; -1 keeps the direction; input and output are the same whole buffer.
        let done = unsafe {
            aws_lc_sys::EVP_CipherInit_ex(
                self.0,
                ptr::null(),
                ptr::null_mut(),
                ptr::null(),
                tweak.as_ptr(),
                -1,
            ) == 1
                && aws_lc_sys::EVP_CipherUpdate(
                    self.0,
                    sector.as_mut_ptr(),
                    &mut count,
                    sector.as_ptr(),
                    sector.len() as c_int,
                ) == 1
        };
        assert!(done && count as usize == sector.len(), "AWS-LC failed");
    }
}

impl Drop for AwsLcContext {
    fn drop(&mut self) {
        // SAFETY: the context was made in `new` and is freed once.
        unsafe { aws_lc_sys::EVP_CIPHER_CTX_free(self.0) };
    }
}

fn aws_lc(key: &[u8], size: SectorSize) -> Result<Contestant, Error> {
    let mut encrypter = AwsLcContext::new(key, 1)?;
    let mut decrypter = AwsLcContext::new(key, 0)?;
    let run = Box::new(move |encrypt: bool, lba: u64, data: &mut [u8]| {
        let context = if encrypt { &mut encrypter } else { &mut decrypter };
        for (tweak, sector) in sectors(size, lba, data) {
            context.sector(&tweak, sector);
        }
    });
    Ok(Contestant { name: "AWS-LC".into(), width: Width::widest(), run })
}

/// The sectors of a request with their tweaks, for libraries that take a call a sector.
fn sectors(size: SectorSize, lba: u64, data: &mut [u8]) -> impl Iterator<Item = ([u8; 16], &mut [u8])> {
    data.chunks_exact_mut(size.bytes())
        .enumerate()
        .map(move |(i, sector)| (u128::from(lba + i as u64 * size.lbas()).to_le_bytes(), sector))
}
