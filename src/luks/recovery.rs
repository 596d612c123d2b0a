//! Recovery passphrases: LUKS2 keyslots that hold the DEK, so that stock cryptsetup opens the volume.

use libcryptsetup_rs::consts::flags::CryptVolumeKey;
use libcryptsetup_rs::consts::vals::CryptKdf;
use libcryptsetup_rs::{CryptPbkdfType, CryptSettingsHandle, Either, LibcryptErr};
use ublk_targets::secret::{Dek, Secret, scrub_stack};

#[cfg(test)]
use super::Header;
#[cfg(test)]
use super::header::load_known;
use super::header::{Loaded, STACK_USED};
use super::{CIPHER, LuksError, crypt, memory};

/// What adding a passphrase takes at least, in bytes: less makes it too easy to guess.
const LEAST_MEMORY: u64 = 64 << 20;

/// Adds `passphrase` to the volume that is loaded, at the cost that fits this host.
pub(super) fn add(mut loaded: Loaded, dek: &Dek, passphrase: &Secret) -> Result<u32, LuksError> {
    let path = loaded.header.place.header_path().to_owned();
    loaded.verify(dek)?; // which takes no memory, unlike what follows
    let cost = CryptSettingsHandle::get_pbkdf_type_params(&CryptKdf::Argon2Id)
        .map_err(crypt::failed("choose the cost of a passphrase of", &path))?;
    memory::check(&path, LEAST_MEMORY)?;
    let most = u32::try_from(memory::share() / 1024).unwrap_or(u32::MAX);
    let cost = CryptPbkdfType { max_memory_kb: cost.max_memory_kb.min(most), ..cost };
    add_at(loaded, dek, passphrase, &cost)
}

fn add_at(
    mut loaded: Loaded,
    dek: &Dek,
    passphrase: &Secret,
    cost: &CryptPbkdfType,
) -> Result<u32, LuksError> {
    let path = loaded.header.place.header_path().to_owned();
    let failed = crypt::failed("add a passphrase to", &path);
    loaded.device.settings_handle().set_pbkdf_type(cost).map_err(&failed)?;
    // A header without keyslots says nowhere how to encrypt them.
    loaded.device.keyslot_handle().set_encryption(CIPHER, dek.expose().len()).map_err(&failed)?;
    let added: Result<u32, LibcryptErr> = loaded.device.keyslot_handle().add_by_key(
        None,
        Some(Either::Left(dek.expose())),
        passphrase.expose(),
        CryptVolumeKey::empty(),
    );
    scrub_stack::<STACK_USED>();
    added.map_err(&failed)
}

/// Wipes the keyslot `slot` of the volume that is loaded.
pub(super) fn remove(mut loaded: Loaded, slot: u32) -> Result<(), LuksError> {
    let path = loaded.header.place.header_path().to_owned();
    if !loaded.header.keyslots.iter().any(|keyslot| keyslot.slot == slot) {
        return Err(LuksError::NoSuchSlot { path, slot });
    }
    let removed = loaded.device.keyslot_handle().destroy(slot);
    removed.map_err(crypt::failed("remove the passphrase of", &path))
}

#[cfg(test)]
impl Header {
    /// The slot that `passphrase` opens.
    pub(super) fn recovery_find(&self, passphrase: &Secret) -> Result<u32, LuksError> {
        let mut loaded = load_known(&self.place, &self.access, self.uuid)?;
        // Without a name nothing is activated: the passphrase is checked only.
        let mut handle = loaded.device.activate_handle();
        let flags = libcryptsetup_rs::consts::flags::CryptActivate::empty();
        let found = handle.activate_by_passphrase(None, None, passphrase.expose(), flags);
        let path = self.place.header_path();
        found.map_err(|error| match crypt::errno(&error) {
            Some(libc::EPERM | libc::ENOENT) => LuksError::WrongPassphrase(path.to_owned()),
            _ => crypt::failed("check the passphrase of", path)(error),
        })
    }

    pub(super) fn recovery_add_cheaply(&mut self, dek: &Dek, passphrase: &Secret) -> Result<u32, LuksError> {
        let cost = CryptPbkdfType {
            type_: CryptKdf::Argon2Id,
            hash: None,
            time_ms: 0,
            iterations: 4,
            max_memory_kb: 32,
            parallel_threads: 1,
            flags: libcryptsetup_rs::consts::flags::CryptPbkdf::NO_BENCHMARK,
        };
        let mut loaded = load_known(&self.place, &self.access, self.uuid)?;
        loaded.verify(dek)?;
        let slot = add_at(loaded, dek, passphrase, &cost)?;
        *self = load_known(&self.place, &self.access, self.uuid)?.header;
        Ok(slot)
    }
}
