//! The providers in use, by name.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// The providers in use; each change is on disk before the call that makes it returns.
pub struct Registry {
    directory: PathBuf,
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
        Ok(Self { directory: directory.to_owned(), settings, providers })
    }

    /// Adds a native provider and unlocks it. Its file is `file`, or `NAME.keys` in the registry's directory; it is made
    /// if missing, and otherwise must open by `secret`. The first provider becomes the default.
    pub fn add_native(
        &mut self,
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
    pub fn add_kmip(&mut self, provider: KmipProvider) -> Result<(), ProviderError> {
        self.check_name_is_free(provider.name())?;
        self.insert(ProviderConfig::Kmip(Box::new(provider.config().clone())), Arc::new(provider))
    }

    /// Gives a KMIP provider other settings: those of `provider`, which has its name and which the caller has made and tried.
    /// The one before forgets its KEKs.
    pub fn replace_kmip(&mut self, provider: KmipProvider) -> Result<(), ProviderError> {
        let name = provider.name().clone();
        let before = self.get(&name)?;
        let mut settings = self.settings.clone();
        settings.provider.insert(name.clone(), ProviderConfig::Kmip(Box::new(provider.config().clone())));
        self.save(settings)?;
        self.providers.insert(name, Arc::new(provider));
        before.lock();
        Ok(())
    }

    /// The settings of the provider of that name.
    pub fn config(&self, name: &ProviderName) -> Result<&ProviderConfig, ProviderError> {
        self.settings.provider.get(name).ok_or_else(|| ProviderError::UnknownProvider(name.clone()))
    }

    /// Fails where a provider has this name.
    pub fn check_name_is_free(&self, name: &ProviderName) -> Result<(), ProviderError> {
        match self.providers.contains_key(name) {
            true => Err(ProviderError::NameTaken(name.clone())),
            false => Ok(()),
        }
    }

    fn insert(
        &mut self,
        config: ProviderConfig,
        provider: Arc<dyn KeyProvider>,
    ) -> Result<(), ProviderError> {
        let name = provider.name().clone();
        let mut settings = self.settings.clone();
        settings.provider.insert(name.clone(), config);
        settings.default.get_or_insert_with(|| name.clone());
        self.save(settings)?;
        self.providers.insert(name, provider);
        Ok(())
    }

    /// Forgets a provider. Its key file stays where it is: without it, its volumes could not be opened any more. The
    /// default becomes unset if it was this one. Whether volumes still need it is for the caller to know.
    pub fn remove(&mut self, name: &ProviderName) -> Result<(), ProviderError> {
        let mut settings = self.settings.clone();
        settings.provider.remove(name).ok_or_else(|| ProviderError::UnknownProvider(name.clone()))?;
        settings.default = settings.default.filter(|default| default != name);
        self.save(settings)?;
        if let Some(provider) = self.providers.remove(name) {
            provider.lock();
        }
        Ok(())
    }

    /// Makes `name` the default.
    pub fn set_default(&mut self, name: &ProviderName) -> Result<(), ProviderError> {
        let mut settings = self.settings.clone();
        if !settings.provider.contains_key(name) {
            return Err(ProviderError::UnknownProvider(name.clone()));
        }
        settings.default = Some(name.clone());
        self.save(settings)
    }

    /// The provider of that name.
    pub fn get(&self, name: &ProviderName) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        self.providers.get(name).cloned().ok_or_else(|| ProviderError::UnknownProvider(name.clone()))
    }

    /// The provider that volumes get their KEK from when none is named.
    pub fn default_provider(&self) -> Result<Arc<dyn KeyProvider>, ProviderError> {
        self.get(self.settings.default.as_ref().ok_or(ProviderError::NoDefault)?)
    }

    /// All providers, by name.
    pub fn list(&self) -> Vec<ProviderSummary> {
        let summary = |(name, provider): (&ProviderName, &Arc<dyn KeyProvider>)| {
            Some(ProviderSummary {
                name: name.clone(),
                config: self.settings.provider.get(name)?.clone(),
                is_default: self.settings.default.as_ref() == Some(name),
                availability: provider.availability(),
            })
        };
        self.providers.iter().filter_map(summary).collect()
    }

    fn save(&mut self, settings: Settings) -> Result<(), ProviderError> {
        let path = self.directory.join(FILE_NAME);
        let text = toml::to_string(&settings).map_err(|e| ProviderError::damaged(&path, e.to_string()))?;
        atomic_file::replace(&path, text.as_bytes()).map_err(|e| ProviderError::file("write", &path, e))?;
        self.settings = settings;
        Ok(())
    }
}

impl ProviderConfig {
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
