//! The native provider: KEKs in one file of this host, sealed by a passphrase or key file.
//!
//! The secret goes through Argon2id into a sealing key; that wraps the root, 64 random bytes: one AES-256 key that
//! wraps the KEKs and one that wraps the SHA-256 of everything else, so that nothing in the file can be swapped,
//! dropped or turned back singly without the root. An older copy of the whole file is a genuine file, as with any
//! file that is not kept outside the reach of who can write it.

mod file;
mod kdf;
mod seen;

pub use kdf::KdfCost;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use ublk_targets::secret::{KEK_LEN, Kek, Secret};
use uuid::Uuid;

use self::file::{DIGEST_LEN, KeyFile, Record, Seal};
use self::kdf::SALT_LEN;
use self::seen::{Seen, Sight};
use super::wrap::{WrapError, unwrap_bytes, wrap_bytes};
use super::{
    Availability, KekChange, KekId, KekInfo, KekState, KeyProvider, ProviderError, ProviderKind,
    ProviderName, newest_active,
};
use crate::atomic_file;

/// A native provider. Its file is read again at each call, so that a restored file is seen at once; changes of it are
/// made by one process at a time.
pub struct NativeProvider {
    name: ProviderName,
    path: PathBuf,
    /// Held for a moment only: who works with the root has it from here, and the last one wipes it.
    root: Mutex<Option<Arc<Root>>>,
    /// Held while the file is changed.
    changing: Mutex<()>,
    seen: Arc<Seen>,
}

impl NativeProvider {
    /// The provider whose file is `path`, locked. The file is not touched yet.
    pub fn new(name: ProviderName, path: PathBuf) -> Self {
        Self { name, path, root: Mutex::default(), changing: Mutex::default(), seen: Arc::default() }
    }

    /// Makes the file, without a KEK in it, sealed by `secret`; the provider is ready after that. Fails if there is
    /// a file already. `cost` is [`KdfCost::DEFAULT`] but for tests.
    pub fn create(
        name: ProviderName,
        path: PathBuf,
        secret: &Secret,
        cost: KdfCost,
    ) -> Result<Self, ProviderError> {
        let root = Root::generate()?;
        let (salt, wrapped_root) = root.sealed_by(secret, cost)?;
        let bytes = root.sealed(&KeyFile { cost, salt, wrapped_root, records: Vec::new() })?;
        atomic_file::create(&path, &bytes).map_err(|e| ProviderError::file("create", &path, e))?;
        let provider = Self::new(name, path);
        *provider.root() = Some(Arc::new(root));
        Ok(provider)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn root(&self) -> MutexGuard<'_, Option<Arc<Root>>> {
        // A panic elsewhere cannot have left the option half set.
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<(KeyFile, Seal), ProviderError> {
        read(&self.path)
    }

    /// What the file holds, as far as that is known without waiting for long.
    fn look(&self) -> Sight {
        self.seen.look(self.path.clone(), |path| infos(&path).ok())
    }

    /// The file, checked to be genuine, and its root.
    fn open_with(&self, secret: &Secret) -> Result<(KeyFile, Root), ProviderError> {
        let (file, seal) = self.read()?;
        let root = Root::opened_by(secret, &file).map_err(|e| match e {
            OpenError::OtherKey => ProviderError::WrongSecret(self.path.clone()),
            OpenError::Provider(e) => e,
        })?;
        root.check(&self.path, &seal)?;
        Ok((file, root))
    }

    /// Runs `work` on the file, checked to be genuine, if the provider is unlocked.
    fn unlocked<T>(
        &self,
        work: impl FnOnce(&Root, KeyFile) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        let root = self.root().clone().ok_or_else(|| ProviderError::Locked(self.name.clone()))?;
        let (file, seal) = self.read()?;
        root.check(&self.path, &seal)?;
        work(&root, file)
    }

    fn add_kek(&self, state: KekState) -> Result<KekId, ProviderError> {
        let _one_at_a_time = self.changing();
        self.unlocked(|root, mut file| {
            if file.records.len() == file::MAX_RECORDS {
                return Err(ProviderError::Full { path: self.path.clone(), limit: file::MAX_RECORDS });
            }
            let record = root.new_record(state)?;
            let id = kek_id(&self.path, record.id)?;
            file.records.push(record);
            root.save(&self.path, &file)?;
            Ok(id)
        })
    }

    /// Where the record of the KEK `id` is in `file`.
    fn find(&self, file: &KeyFile, id: &KekId) -> Result<usize, ProviderError> {
        let found = file.records.iter().position(|record| record.id.to_string() == id.as_str());
        found.ok_or_else(|| ProviderError::UnknownKek { provider: self.name.clone(), id: id.clone() })
    }
}

fn read(path: &Path) -> Result<(KeyFile, Seal), ProviderError> {
    let bytes =
        atomic_file::read_limited(path, file::MAX_LEN).map_err(|e| ProviderError::file("read", path, e))?;
    KeyFile::parse(&bytes).map_err(|problem| ProviderError::damaged(path, problem))
}

fn info(path: &Path, record: &Record) -> Result<KekInfo, ProviderError> {
    let created = UNIX_EPOCH.checked_add(Duration::from_secs(record.created));
    let created = created.ok_or_else(|| ProviderError::damaged(path, "a date is out of range"))?;
    Ok(KekInfo { id: kek_id(path, record.id)?, state: record.state, created })
}

/// What may be told of the KEKs in the file at `path`.
fn infos(path: &Path) -> Result<Vec<KekInfo>, ProviderError> {
    let (file, _) = read(path)?;
    file.records.iter().map(|record| info(path, record)).collect()
}

impl KeyProvider for NativeProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> ProviderKind {
        ProviderKind::Native
    }

    fn availability(&self) -> Availability {
        match (self.look(), self.root().is_some()) {
            (Sight::Unreadable, _) => Availability::Unavailable,
            (_, false) => Availability::Locked,
            (_, true) => Availability::Ready,
        }
    }

    fn create_kek(&self) -> Result<KekId, ProviderError> {
        self.add_kek(KekState::Active)
    }

    fn create_inactive_kek(&self) -> Result<KekId, ProviderError> {
        self.add_kek(KekState::PreActive)
    }

    fn change_kek(&self, id: &KekId, change: KekChange) -> Result<KekState, ProviderError> {
        let _one_at_a_time = self.changing();
        self.unlocked(|root, mut file| {
            let at = self.find(&file, id)?;
            let record = &mut file.records[at];
            let state = record.state;
            let Some(next) = state.after(change) else {
                return Err(ProviderError::KekChange {
                    provider: self.name.clone(),
                    id: id.clone(),
                    state,
                    change,
                });
            };
            if next != state {
                record.state = next;
                if next.is_destroyed() {
                    record.wrapped = file::DESTROYED;
                }
                root.save(&self.path, &file)?;
            }
            Ok(next)
        })
    }

    fn kek(&self, id: &KekId) -> Result<KekInfo, ProviderError> {
        let (file, _) = self.read()?;
        info(&self.path, &file.records[self.find(&file, id)?])
    }

    fn known_state(&self, id: &KekId) -> Option<KekState> {
        match self.look() {
            Sight::Keks(keks) => keks.into_iter().find(|kek| kek.id == *id).map(|kek| kek.state),
            Sight::Unknown | Sight::Unreadable => None,
        }
    }

    fn wrapping_kek(&self) -> Option<KekId> {
        match self.look() {
            Sight::Keks(keks) => newest_active(&keks).cloned(),
            Sight::Unknown | Sight::Unreadable => None,
        }
    }

    fn fetch_kek(&self, id: &KekId) -> Result<Kek, ProviderError> {
        self.unlocked(|root, file| {
            let record = &file.records[self.find(&file, id)?];
            if !record.state.unwraps() {
                return Err(ProviderError::KekUnusable {
                    provider: self.name.clone(),
                    id: id.clone(),
                    state: record.state,
                });
            }
            let kek = unwrap_bytes(root.wrap_key(), &record.wrapped, KEK_LEN)
                .map_err(|e| unwrap_failed(&self.path, e))?;
            Ok(Kek::from_secret(kek)?)
        })
    }

    fn list_keks(&self) -> Result<Vec<KekInfo>, ProviderError> {
        infos(&self.path)
    }

    fn unlock(&self, secret: &Secret) -> Result<(), ProviderError> {
        let (_, root) = self.open_with(secret)?;
        *self.root() = Some(Arc::new(root));
        Ok(())
    }

    /// Seals the file by `new` instead of `old`. The KEKs stay as they are, and so does the root: who has an old copy
    /// of the file and the old secret still has them.
    fn change_secret(&self, old: &Secret, new: &Secret) -> Result<(), ProviderError> {
        let _one_at_a_time = self.changing();
        let (mut file, root) = self.open_with(old)?;
        (file.salt, file.wrapped_root) = root.sealed_by(new, file.cost)?;
        root.save(&self.path, &file)?;
        *self.root() = Some(Arc::new(root));
        Ok(())
    }

    fn lock(&self) {
        *self.root() = None;
    }
}

/// What opens the file: the key that wraps KEKs, then the key that wraps the digest.
struct Root(Secret);

enum OpenError {
    OtherKey,
    Provider(ProviderError),
}

impl Root {
    fn generate() -> Result<Self, ProviderError> {
        Ok(Self(Secret::random(2 * KEK_LEN)?))
    }

    fn wrap_key(&self) -> &[u8] {
        &self.0.expose()[..KEK_LEN]
    }

    fn seal_key(&self) -> &[u8] {
        &self.0.expose()[KEK_LEN..]
    }

    /// A new salt, and the root wrapped under what `secret` gives with it.
    fn sealed_by(
        &self,
        secret: &Secret,
        cost: KdfCost,
    ) -> Result<([u8; SALT_LEN], [u8; file::WRAPPED_ROOT_LEN]), ProviderError> {
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(Secret::random(SALT_LEN)?.expose());
        let sealing_key = kdf::derive(secret, &salt, cost)?;
        Ok((salt, wrap_bytes(sealing_key.expose(), self.0.expose())?))
    }

    fn opened_by(secret: &Secret, file: &KeyFile) -> Result<Self, OpenError> {
        let sealing_key = kdf::derive(secret, &file.salt, file.cost).map_err(OpenError::Provider)?;
        match unwrap_bytes(sealing_key.expose(), &file.wrapped_root, 2 * KEK_LEN) {
            Ok(root) => Ok(Self(root)),
            Err(WrapError::Secret(e)) => Err(OpenError::Provider(e.into())),
            Err(_) => Err(OpenError::OtherKey),
        }
    }

    fn new_record(&self, state: KekState) -> Result<Record, ProviderError> {
        let kek = Kek::generate()?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let wrapped = wrap_bytes(self.wrap_key(), kek.expose())?;
        Ok(Record { id: Uuid::new_v4(), created, state, wrapped })
    }

    /// That `seal` was made with this root.
    fn check(&self, path: &Path, seal: &Seal) -> Result<(), ProviderError> {
        let digest =
            unwrap_bytes(self.seal_key(), &seal.wrapped, DIGEST_LEN).map_err(|e| unwrap_failed(path, e))?;
        if digest.expose() == seal.digest { Ok(()) } else { Err(ProviderError::damaged(path, TAMPERED)) }
    }

    /// The bytes of `file` under a seal of this root.
    fn sealed(&self, file: &KeyFile) -> Result<Vec<u8>, ProviderError> {
        let body = file.body();
        let digest: [u8; DIGEST_LEN] = Sha256::digest(&body).into();
        let seal = Seal { digest, wrapped: wrap_bytes(self.seal_key(), &digest)? };
        Ok(file::sealed(body, &seal))
    }

    fn save(&self, path: &Path, file: &KeyFile) -> Result<(), ProviderError> {
        let bytes = self.sealed(file)?;
        atomic_file::replace(path, &bytes).map_err(|e| ProviderError::file("write", path, e))
    }
}

const TAMPERED: &str = "its seal does not match: it was changed by something other than blkseal";

fn unwrap_failed(path: &Path, error: WrapError) -> ProviderError {
    match error {
        WrapError::Secret(e) => e.into(),
        _ => ProviderError::damaged(path, TAMPERED),
    }
}

fn kek_id(path: &Path, id: Uuid) -> Result<KekId, ProviderError> {
    KekId::try_from(id.to_string()).map_err(|e| ProviderError::damaged(path, e.to_string()))
}
