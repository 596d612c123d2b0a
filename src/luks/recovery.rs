//! Recovery passphrases: LUKS2 keyslots that hold the DEK, so that stock cryptsetup opens the volume.

use libcryptsetup_rs::consts::flags::{CryptActivate, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::CryptKdf;
use libcryptsetup_rs::{CryptPbkdfType, CryptSettingsHandle, Either, LibcryptErr};
use ublk_targets::secret::{Dek, Secret, scrub_stack};

use super::header::STACK_USED;
use super::{CIPHER, Header, Keyslot, LuksError, crypt};

impl Header {
    /// Adds a passphrase that opens the volume without any key provider, and returns its slot. The passphrase goes
    /// through Argon2id at the cost that cryptsetup chooses for this host (about two seconds). `dek` must be the volume's.
    pub fn recovery_add(&mut self, dek: &Dek, passphrase: &Secret) -> Result<u32, LuksError> {
        let path = self.place.header_path();
        let cost = CryptSettingsHandle::get_pbkdf_type_params(&CryptKdf::Argon2Id)
            .map_err(crypt::failed("choose the cost of a passphrase of", path))?;
        self.add_keyslot(dek, passphrase, &cost)
    }

    /// The slot that `passphrase` opens.
    pub fn recovery_find(&self, passphrase: &Secret) -> Result<u32, LuksError> {
        let path = self.place.header_path();
        let mut loaded = self.reload()?;
        // Without a name nothing is activated: the passphrase is checked only.
        let found = loaded.device.activate_handle().activate_by_passphrase(
            None,
            None,
            passphrase.expose(),
            CryptActivate::empty(),
        );
        scrub_stack::<STACK_USED>();
        found.map_err(|error| match crypt::errno(&error) {
            Some(libc::EPERM | libc::ENOENT) => LuksError::WrongPassphrase(path.to_owned()),
            _ => crypt::failed("check the passphrase of", path)(error),
        })
    }

    /// Wipes the keyslot `slot`. The volume still opens through its token.
    pub fn recovery_remove(&mut self, slot: u32) -> Result<(), LuksError> {
        let path = self.place.header_path();
        let mut loaded = self.reload()?;
        if !loaded.header.keyslots.iter().any(|keyslot| keyslot.slot == slot) {
            return Err(LuksError::NoSuchSlot { path: path.to_owned(), slot });
        }
        loaded
            .device
            .keyslot_handle()
            .destroy(slot)
            .map_err(crypt::failed("remove the passphrase of", path))?;
        *self = self.reload()?.header;
        Ok(())
    }

    /// The recovery passphrases that the header has now.
    pub fn recovery_list(&self) -> Result<Vec<Keyslot>, LuksError> {
        Ok(self.reload()?.header.keyslots)
    }

    fn add_keyslot(
        &mut self,
        dek: &Dek,
        passphrase: &Secret,
        cost: &CryptPbkdfType,
    ) -> Result<u32, LuksError> {
        let path = self.place.header_path().to_owned();
        let failed = crypt::failed("add a passphrase to", &path);
        let mut loaded = self.reload()?;
        loaded.verify(dek)?;
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
        let slot = added.map_err(&failed)?;
        *self = self.reload()?.header;
        Ok(slot)
    }

    #[cfg(test)]
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
        self.add_keyslot(dek, passphrase, &cost)
    }
}
