//! Other settings for a KMIP provider whose servers, certificates or limits have changed.

use std::sync::Arc;

use super::Daemon;
use super::events::Action;
use super::key_servers::{addresses, invalid, named, one_serves, trust};
use super::providers::provider_name;
use crate::control::{Failure, FailureKind, Provider, ProviderSet};
use crate::provider::kmip::{self, KmipConfig, KmipProvider, ProxyAddress};
use crate::provider::{KeyProvider, ProviderConfig, ProviderError, ProviderName};

impl Daemon {
    /// Gives a KMIP provider other settings, with which a server has shown that it serves this host and has a KEK that
    /// known volumes need. Where it fails, nothing has changed.
    pub(super) fn provider_set(
        self: &Arc<Self>,
        call: ProviderSet,
        action: &mut Action,
    ) -> Result<Provider, Failure> {
        let name = provider_name(&call.name)?;
        let before = self.kmip_config(&name)?;
        let config = changed(before.clone(), call)?;
        action.server = named(&config.servers);
        let reports =
            kmip::check(&config).map_err(|source| ProviderError::Kmip { provider: name.clone(), source })?;
        one_serves(&name, reports)?;
        let provider = KmipProvider::new(name.clone(), config, Arc::clone(&self.observer));
        self.check_has_keks(&provider)?;
        if !self.providers().replace_kmip(&before, provider)? {
            let message = format!("key provider {name} was changed by another command meanwhile");
            return Err(Failure::new(FailureKind::Busy, message).hint("look at it, and try again"));
        }
        self.go_on_with(&name);
        self.provider(&name)
    }

    /// The settings of the KMIP provider `name`.
    pub(super) fn kmip_config(&self, name: &ProviderName) -> Result<KmipConfig, Failure> {
        match self.providers().config(name)? {
            ProviderConfig::Kmip(config) => Ok(*config),
            ProviderConfig::Native { .. } => {
                let message = format!("key provider {name} is a native one and has no servers");
                Err(Failure::new(FailureKind::InvalidArgument, message)
                    .hint("'blkseal provider list' shows the kind of each provider"))
            }
        }
    }

    /// Fails where known volumes need KEKs of the provider, and none of these is to be had from it: it would be another
    /// cluster, or this host another client.
    fn check_has_keks(&self, provider: &KmipProvider) -> Result<(), Failure> {
        // Learns which KEK is the newest, too.
        provider.list_keks()?;
        let mut problem = None;
        for id in self.keks_in_use(provider.name()) {
            match provider.kek(&id) {
                Ok(_) => return Ok(()),
                Err(error) => problem = problem.or(Some(Failure::from(error))),
            }
        }
        let Some(failure) = problem else { return Ok(()) };
        let message = format!(
            "key provider {} keeps its settings, for with the new ones no KEK of its volumes is to be had: {failure}",
            provider.name()
        );
        Err(Failure { message, ..failure }.hint(
            "the servers must be of the same cluster, and this host's certificate one that may have its keys; \
             'blkseal provider add kmip' adds another cluster",
        ))
    }
}

/// `config` with what the call gives.
fn changed(mut config: KmipConfig, call: ProviderSet) -> Result<KmipConfig, Failure> {
    if let Some(servers) = call.servers {
        config.servers = addresses(&servers)?;
    }
    if let Some(trust) = trust(call.ca, call.pins)? {
        config.trust = trust;
    }
    config.certificate = call.certificate.unwrap_or(config.certificate);
    config.key = call.key.unwrap_or(config.key);
    config.proxy = proxy(call.proxy.as_deref(), config.proxy)?;
    match call.user {
        Some(none) if none.is_empty() => (config.user, config.password_file) = (None, None),
        user => config.user = user.or(config.user),
    }
    config.password_file = call.password_file.or(config.password_file);
    config.group = call.group.unwrap_or(config.group);
    config.allow_unreplicated = call.allow_unreplicated.unwrap_or(config.allow_unreplicated);
    config.max_age = call.max_age.or(config.max_age).filter(|&seconds| seconds > 0);
    Ok(config)
}

/// The proxy that a call gives: an empty text is none, and what is not given stays.
pub(super) fn proxy(
    given: Option<&str>,
    before: Option<ProxyAddress>,
) -> Result<Option<ProxyAddress>, Failure> {
    match given {
        None => Ok(before),
        Some("") => Ok(None),
        Some(text) => Ok(Some(text.parse().map_err(invalid)?)),
    }
}
