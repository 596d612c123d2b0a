//! The providers in use, by name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use ublk_targets::secret::Secret;

use super::kmip::{KmipConfig, KmipProvider, Observer};
use super::native::{KdfCost, NativeProvider};
use super::{Availability, KeyProvider, ProviderError, ProviderKind, ProviderName};
use crate::atomic_file;

const FILE_NAME: &str = "providers.toml";
const FILE_LIMIT: u64 = 1024 * 1024;

/// One provider's settings, as `providers.toml` keeps them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ProviderConfig {
    /// KEKs in a file of this host.
    Native {
        /// The file.
        file: PathBuf,
    },
    /// KEKs of a cluster of key servers.
    Kmip(Box<KmipConfig>),
}

/// What may be told of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSummary {
    /// Its name.
    pub name: ProviderName,
    /// Its settings.
    pub config: ProviderConfig,
    /// Whether volumes get their KEK from it when none is named.
    pub is_default: bool,
    /// Whether it gives out keys now.
    pub availability: Availability,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<ProviderName>,
    #[serde(default)]
    provider: BTreeMap<ProviderName, ProviderConfig>,
}

/// The providers in use; each change is on disk before the call that makes it returns. Who reads never waits for who
/// changes: a change is made beside what is there, and takes its place at the end.
pub struct Registry {
    directory: PathBuf,
    /// Held for a moment only, to take what is in it or to put another in its place.
    now: RwLock<Arc<Contents>>,
    /// Held while `providers.toml` is written.
    changing: Mutex<()>,
}

#[derive(Clone)]
struct Contents {
    settings: Settings,
    providers: BTreeMap<ProviderName, Arc<dyn KeyProvider>>,
}

impl Registry {
    /// The providers that `providers.toml` in `directory` names, all locked; none if there is no such file. `observer` is
    /// told of what happens with key servers.
    pub fn load(directory: &Path, observer: &Observer) -> Result<Self, ProviderError> {
        let path = directory.join(FILE_NAME);
        let settings = match atomic_file::read_limited(&path, FILE_LIMIT) {
            Ok(bytes) => parse(&bytes).map_err(|problem| ProviderError::damaged(&path, problem))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Settings::default(),
            Err(e) => return Err(ProviderError::file("read", &path, e)),
        };
        let instance = |(name, config)| (ProviderName::clone(name), instance(name, config, observer));
        let providers = settings.provider.iter().map(instance).collect();
        let now = RwLock::new(Arc::new(Contents { settings, providers }));
        Ok(Self { directory: directory.to_owned(), now, changing: Mutex::default() })
    }

    /// Adds a native provider and unlocks it. Its file is `file`, or `NAME.keys` in the registry's directory; it is made
    /// if missing, and otherwise must open by `secret`. The first provider becomes the default.
    pub fn add_native(
        &self,
        name: ProviderName,
        file: Option<PathBuf>,
        secret: &Secret,
        cost: KdfCost,
    ) -> Result<(), ProviderError> {
        self.check_name_is_free(&name)?;
        let file = file.unwrap_or_else(|| self.directory.join(format!("{name}.keys")));
        let file = std::path::absolute(&file).map_err(|e| ProviderError::file("find", &file, e))?;
        let exists = file.try_exists().map_err(|e| ProviderError::file("look for", &file, e))?;
        let provider = if exists {
            let provider = NativeProvider::new(name.clone(), file.clone());
            provider.unlock(secret)?;
            provider
        } else {
            NativeProvider::create(name.clone(), file.clone(), secret, cost)?
        };
        self.insert(ProviderConfig::Native { file }, Arc::new(provider))
    }

    /// Adds a KMIP provider, which the caller has made and tried. The first provider becomes the default.
    pub fn add_kmip(&self, provider: KmipProvider) -> Result<(), ProviderError> {
        self.insert(ProviderConfig::Kmip(Box::new(provider.config().clone())), Arc::new(provider))
    }

    /// Gives a KMIP provider other settings: those of `provider`, which has its name and which the caller has made and tried.
    /// The one before forgets its KEKs. Says whether its settings were those of `before`; otherwise nothing changes.
    pub fn replace_kmip(&self, before: &KmipConfig, provider: KmipProvider) -> Result<bool, ProviderError> {
        let name = provider.name().clone();
        let old = self.change(|contents| {
            let old = contents.get(&name)?;
            let config = contents.settings.provider.get_mut(&name);
            let Some(ProviderConfig::Kmip(config)) = config.filter(|config| config.is_kmip(before)) else {
                return Ok(None);
            };
            **config = provider.config().clone();
            contents.providers.insert(name.clone(), Arc::new(provider));
            Ok(Some(old))
        })?;
        old.iter().for_each(|old| old.lock());
        Ok(old.is_some())
    }

    /// The settings of the provider of that name.
    pub fn config(&self, name: &ProviderName) -> Result<ProviderConfig, ProviderError> {
        let config = self.now().settings.provider.get(name).cloned();
        config.ok_or_else(|| ProviderError::UnknownProvider(name.clone()))
    }

    /// Fails where a provider has this name.
    pub fn check_name_is_free(&self, name: &ProviderName) -> Result<(), ProviderError> {
        self.now().check_name_is_free(name)
    }

    fn insert(&self, config: ProviderConfig, provider: Arc<dyn KeyProvider>) -> Result<(), ProviderError> {
        let name = provider.name().clone();
        self.change(|contents| {
            contents.check_name_is_free(&name)?;
            contents.settings.provider.insert(name.clone(), config);
            contents.settings.default.get_or_insert_with(|| name.clone());
            contents.providers.insert(name, provider);
            Ok(())
        })
    }

    /// Forgets a provider. Its key file stays where it is: without it, its volumes could not be opened any more. The
    /// default becomes unset if it was this one. Whether volumes still need it is for the caller to know.
    pub fn remove(&self, name: &ProviderName) -> Result<(), ProviderError> {
        let removed = self.change(|contents| {
            let settings = &mut contents.settings;
            settings.provider.remove(name).ok_or_else(|| ProviderError::UnknownProvider(name.clone()))?;
            settings.default = settings.default.take().filter(|default| default != name);
            Ok(contents.providers.remove(name))
        })?;
        removed.iter().for_each(|removed| removed.lock());
        Ok(())
    }

    /// Makes `name` the default.
    pub fn set_default(&self, name: &ProviderName) -> Result<(), ProviderError> {
        self.change(|contents| {
            contents.get(name)?;
            contents.settings.default = Some(name.clone());
            Ok(())
        })
    }

    /// The provider of that name.
    pub fn get(&self, name: &ProviderName) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        self.now().get(name)
    }

    /// The provider that volumes get their KEK from when none is named.
    pub fn default_provider(&self) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        let now = self.now();
        now.get(now.settings.default.as_ref().ok_or(ProviderError::NoDefault)?)
    }

    /// All providers.
    pub fn all(&self) -> Vec<Arc<dyn KeyProvider>> {
        self.now().providers.values().cloned().collect()
    }

    /// What may be told of all providers, by name.
    pub fn list(&self) -> Vec<ProviderSummary> {
        let now = self.now();
        now.providers.iter().filter_map(|(name, provider)| now.summary(name, &**provider)).collect()
    }

    /// What may be told of the provider of that name.
    pub fn summary(&self, name: &ProviderName) -> Result<ProviderSummary, ProviderError> {
        let now = self.now();
        let provider = now.get(name)?;
        now.summary(name, &*provider).ok_or_else(|| ProviderError::UnknownProvider(name.clone()))
    }

    fn now(&self) -> Arc<Contents> {
        // A panic elsewhere cannot have left half of it.
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is there: on disk, and then for everybody. Nothing changes where either fails.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Contents) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        let _one_at_a_time: MutexGuard<'_, ()> = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut contents = Contents::clone(&self.now());
        let done = work(&mut contents)?;
        let path = self.directory.join(FILE_NAME);
        let text = toml::to_string(&contents.settings)
            .map_err(|error| ProviderError::damaged(&path, error.to_string()))?;
        atomic_file::replace(&path, text.as_bytes()).map_err(|e| ProviderError::file("write", &path, e))?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(contents);
        Ok(done)
    }
}

impl Contents {
    fn get(&self, name: &ProviderName) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        self.providers.get(name).cloned().ok_or_else(|| ProviderError::UnknownProvider(name.clone()))
    }

    fn check_name_is_free(&self, name: &ProviderName) -> Result<(), ProviderError> {
        match self.providers.contains_key(name) {
            true => Err(ProviderError::NameTaken(name.clone())),
            false => Ok(()),
        }
    }

    fn summary(&self, name: &ProviderName, provider: &dyn KeyProvider) -> Option<ProviderSummary> {
        Some(ProviderSummary {
            name: name.clone(),
            config: self.settings.provider.get(name)?.clone(),
            is_default: self.settings.default.as_ref() == Some(name),
            availability: provider.availability(),
        })
    }
}

impl ProviderConfig {
    fn is_kmip(&self, settings: &KmipConfig) -> bool {
        matches!(self, Self::Kmip(own) if **own == *settings)
    }

    /// What kind of provider these are the settings of.
    pub fn kind(&self) -> ProviderKind {
        match self {
            Self::Native { .. } => ProviderKind::Native,
            Self::Kmip(_) => ProviderKind::Kmip,
        }
    }
}

fn instance(name: &ProviderName, config: &ProviderConfig, observer: &Observer) -> Arc<dyn KeyProvider> {
    match config {
        ProviderConfig::Native { file } => Arc::new(NativeProvider::new(name.clone(), file.clone())),
        ProviderConfig::Kmip(config) => {
            Arc::new(KmipProvider::new(name.clone(), (**config).clone(), Arc::clone(observer)))
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Settings, String> {
    let text = str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let settings: Settings = toml::from_str(text).map_err(|e| e.to_string().trim_end().replace('\n', " "))?;
    match &settings.default {
        Some(name) if !settings.provider.contains_key(name) => {
            Err(format!("its default {name} is not among its providers"))
        }
        _ => Ok(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::provider::tests::unobserved;

    #[test]
    fn who_reads_does_not_wait_for_who_changes() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::load(directory.path(), &unobserved()).unwrap());
        let secret = Secret::random(8).unwrap();
        let name: ProviderName = "office".parse().unwrap();
        registry.add_native(name.clone(), None, &secret, KdfCost::new(32, 1, 1).unwrap()).unwrap();
        // As while a disk does not take what is written to `providers.toml`.
        let writes = registry.changing.lock().unwrap();
        let (sender, receiver) = mpsc::channel();
        let (changer, same) = (Arc::clone(&registry), name.clone());
        let change = std::thread::spawn(move || sender.send(changer.remove(&same).is_ok()));
        assert_eq!(registry.get(&name).unwrap().availability(), Availability::Ready);
        assert!(registry.config(&name).is_ok() && registry.list().len() == 1);
        assert!(registry.default_provider().is_ok() && receiver.try_recv().is_err());
        drop(writes);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(true));
        change.join().unwrap().unwrap();
        assert!(registry.list().is_empty() && registry.get(&name).is_err());
    }
}
