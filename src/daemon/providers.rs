//! What the daemon does with key providers.

use std::sync::Arc;

use ublk_targets::secret::Secret;

use super::Daemon;
use crate::control::{
    Availability, Failure, FailureKind, Nothing, Provider, ProviderAdd, ProviderKind, Providers,
};
use crate::name::Name;
use crate::provider::{self, KeyProvider, ProviderConfig, ProviderName, ProviderSummary};
use crate::volume;

/// Volumes that a message names at most.
const SHOWN: usize = 5;

impl Daemon {
    pub(super) fn provider_add(&self, call: ProviderAdd, secret: &Secret) -> Result<Provider, Failure> {
        if let Some(file) = call.file.as_ref().filter(|file| !file.is_absolute()) {
            let message = format!("the path {} is not absolute", file.display());
            return Err(Failure::new(FailureKind::InvalidArgument, message));
        }
        let name = provider_name(&call.name)?;
        if call.kind != ProviderKind::Native {
            let message = "ProviderAdd adds native providers only";
            return Err(Failure::new(FailureKind::InvalidArgument, message));
        }
        let providers = self.providers();
        providers.add_native(name.clone(), call.file, secret, self.kdf_cost)?;
        if call.make_default {
            providers.set_default(&name)?;
        }
        let added = providers.get(&name)?;
        volume::wrapping_kek(&*added, None)?;
        self.provider(&name)
    }

    pub(super) fn provider_list(&self) -> Result<Providers, Failure> {
        let summaries = self.providers().list();
        let providers =
            summaries.into_iter().map(|summary| self.describe(summary)).collect::<Result<_, _>>()?;
        Ok(Providers { providers })
    }

    pub(super) fn provider_remove(&self, name: &Name) -> Result<Nothing, Failure> {
        let name = provider_name(name)?;
        let headers = self.headers();
        // Whoever chose it to wrap a DEK has made the volume known by the time that this is held.
        let _nobody_wraps = self.wrapping.forbid(&name)?;
        let volumes = self.volumes_of(&name, &headers);
        if !volumes.is_empty() {
            let message = format!("key provider {name} is needed by {}", some_of(&volumes));
            return Err(
                Failure::new(FailureKind::Busy, message).hint("remove it when they are no longer used")
            );
        }
        let what = format!("key provider {name} has the KEKs");
        self.check_no_forgotten_needs(&what, |other| other.provider == name)?;
        self.providers().remove(&name)?;
        Ok(Nothing {})
    }

    pub(super) fn provider_set_default(&self, name: &Name) -> Result<Nothing, Failure> {
        self.providers().set_default(&provider_name(name)?)?;
        Ok(Nothing {})
    }

    /// Unlocks a provider; volumes that were waiting for one of its KEKs go on.
    pub(super) fn provider_unlock(
        self: &Arc<Self>,
        name: &Name,
        secret: &Secret,
    ) -> Result<Provider, Failure> {
        let name = provider_name(name)?;
        let provider = self.providers().get(&name)?;
        provider.unlock(secret)?;
        self.go_on_with(&name);
        self.provider(&name)
    }

    /// Has another passphrase or key file seal a provider's file, which is unlocked after that.
    pub(super) fn provider_reseal(
        self: &Arc<Self>,
        name: &Name,
        old: &Secret,
        new: &Secret,
    ) -> Result<Provider, Failure> {
        let name = provider_name(name)?;
        self.providers().get(&name)?.change_secret(old, new)?;
        self.go_on_with(&name);
        self.provider(&name)
    }

    pub(super) fn provider_lock(&self, name: &Name) -> Result<Provider, Failure> {
        let name = provider_name(name)?;
        self.providers().get(&name)?.lock();
        self.provider(&name)
    }

    /// Wipes every KEK, when the daemon ends.
    pub(super) fn lock_providers(&self) {
        self.providers().all().iter().for_each(|provider| provider.lock());
    }

    /// The provider of that name, or the default one.
    pub(super) fn provider_or_default(&self, name: Option<&Name>) -> Result<Arc<dyn KeyProvider>, Failure> {
        match name {
            Some(name) => Ok(self.providers().get(&provider_name(name)?)?),
            None => Ok(self.providers().default_provider()?),
        }
    }

    pub(super) fn provider(&self, name: &ProviderName) -> Result<Provider, Failure> {
        self.describe(self.providers().summary(name)?)
    }

    fn describe(&self, summary: ProviderSummary) -> Result<Provider, Failure> {
        let kek = self.providers().get(&summary.name)?.wrapping_kek();
        let (kind, file, servers) = match summary.config {
            ProviderConfig::Native { file } => (ProviderKind::Native, Some(file), Vec::new()),
            ProviderConfig::Kmip(config) => {
                (ProviderKind::Kmip, None, config.servers.iter().map(ToString::to_string).collect())
            }
        };
        let volumes = self.volumes().of_provider(&summary.name).count();
        Ok(Provider {
            name: summary
                .name
                .as_str()
                .parse()
                .map_err(|error| Failure::from_error(FailureKind::Config, &error))?,
            kind,
            is_default: summary.is_default,
            availability: match summary.availability {
                provider::Availability::Ready => Availability::Ready,
                provider::Availability::Locked => Availability::Locked,
                provider::Availability::Unavailable => Availability::Unavailable,
            },
            file,
            servers,
            kek_id: kek.map(String::from),
            volumes: u32::try_from(volumes).unwrap_or(u32::MAX),
        })
    }
}

/// Volumes in words: how many, and the first of them by name.
pub(super) fn some_of(volumes: &[Name]) -> String {
    let names: Vec<&str> = volumes.iter().take(SHOWN).map(Name::as_str).collect();
    let kind = if volumes.len() == 1 { "volume" } else { "volumes" };
    let more = if volumes.len() > SHOWN { ", ..." } else { "" };
    format!("{} {kind}: {}{more}", volumes.len(), names.join(", "))
}

pub(super) fn provider_name(name: &Name) -> Result<ProviderName, Failure> {
    name.as_str().parse().map_err(|error| Failure::from_error(FailureKind::InvalidArgument, &error))
}
