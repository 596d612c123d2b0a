//! What the daemon does with KMIP providers beyond what it does with every provider.

use std::path::PathBuf;
use std::sync::Arc;

use super::Daemon;
use super::ages::Ages;
use super::events::{Action, Recorder};
use super::provider_set::proxy;
use super::providers::provider_name;
use crate::control::{
    Certificate, Checked, Failure, FailureKind, KeyServer, KeyServerStatus, Met, MetCertificate, Provider,
    ProviderAddKmip, ProviderMeet,
};
use crate::name::Name;
use crate::provider::kmip::{
    self, CertificateInfo, KmipConfig, KmipEvent, KmipProvider, Limits, Observer, ServerAddress,
    ServerReport, ServerStatus, Trust,
};
use crate::provider::{ProviderError, ProviderName};
use crate::volume;

impl Daemon {
    /// Adds a KMIP provider that has shown that it gives this host a KEK. Where it fails, nothing has changed here.
    pub(super) fn provider_add_kmip(&self, call: ProviderAddKmip) -> Result<Provider, Failure> {
        let name = provider_name(&call.name)?;
        let make_default = call.make_default;
        let config = config(call)?;
        self.providers().check_name_is_free(&name)?;
        let reports =
            kmip::check(&config).map_err(|source| ProviderError::Kmip { provider: name.clone(), source })?;
        one_serves(&name, reports)?;
        let provider = KmipProvider::new(name.clone(), config, Arc::clone(&self.observer));
        volume::wrapping_kek(&provider, None)?;
        self.providers().add_kmip(provider)?;
        if make_default {
            self.providers().set_default(&name)?;
        }
        self.provider(&name)
    }

    pub(super) fn provider_check(&self, name: &Name) -> Result<Checked, Failure> {
        let name = provider_name(name)?;
        let config = self.kmip_config(&name)?;
        let unusable = |source| ProviderError::Kmip { provider: name.clone(), source };
        let host = kmip::host_certificate(&config).map_err(unusable)?;
        let reports = kmip::check(&config).map_err(unusable)?;
        Ok(Checked {
            servers: reports.into_iter().map(key_server).collect(),
            host: host.as_ref().map(|host| certificate(&host.info)),
            host_good_until: host.as_ref().map(|host| kmip::date(host.good_until)),
            warning: host.and_then(|host| host.warning),
        })
    }

    /// The certificates of servers that are not trusted yet.
    pub(super) fn provider_meet(&self, call: &ProviderMeet) -> Result<Met, Failure> {
        let name = call.name.as_ref().map(provider_name).transpose()?;
        let known = name.map(|name| self.kmip_config(&name));
        // A provider that is still to be added is none yet.
        let known = if call.servers.is_empty() { known.transpose()? } else { known.and_then(Result::ok) };
        let (known_servers, known_proxy) =
            known.map_or_else(Default::default, |config| (config.servers, config.proxy));
        let servers = if call.servers.is_empty() { known_servers } else { addresses(&call.servers)? };
        if servers.is_empty() {
            let message = "no key server is named whose certificate is to be shown";
            return Err(Failure::new(FailureKind::InvalidArgument, message));
        }
        let proxy = proxy(call.proxy.as_deref(), known_proxy)?;
        let met = servers.iter().map(|server| {
            let info = kmip::meet(server, proxy.as_ref(), &Limits::default()).map_err(|error| {
                let failure = Failure::from_error(FailureKind::Locked, &error);
                Failure { hint: error.fault.hint().map(str::to_owned), ..failure }
            })?;
            Ok(MetCertificate { server: server.to_string(), certificate: certificate(&info) })
        });
        Ok(Met { certificates: met.collect::<Result<_, Failure>>()? })
    }
}

/// Records what happens with the servers and keys of every KMIP provider, and has KEKs watched that come into memory.
pub(super) fn observer(recorder: &Arc<Recorder>, ages: &Arc<Ages>) -> Observer {
    let (recorder, ages) = (Arc::clone(recorder), Arc::clone(ages));
    Arc::new(move |provider, event| {
        if matches!(event, KmipEvent::KeyFetched { .. }) {
            ages.fetched(provider);
        }
        let (action, result) = described(event);
        recorder.record(&Action { provider: Some(provider.to_string()), ..action }, &result);
    })
}

fn described(event: &KmipEvent) -> (Action, Result<(), Failure>) {
    let (verb, server, kek_id) = match event {
        KmipEvent::ServerFailed { server, .. } | KmipEvent::NowUsing(server) => {
            ("failover", Some(server), None)
        }
        KmipEvent::AllFailed => ("failover", None, None),
        KmipEvent::KeyMade { id, server } => ("key create", Some(server), Some(id)),
        KmipEvent::KeyChanged { id, server, .. } => ("key change", Some(server), Some(id)),
        KmipEvent::KeyFetched { id, server } => ("key fetch", Some(server), Some(id)),
        KmipEvent::KeyOutOfUse { id, server, .. } => ("key use", Some(server), Some(id)),
        KmipEvent::KeyDropped(id) => ("key drop", None, Some(id)),
        KmipEvent::KeyNotReplicated { id, lacking } => ("key use", Some(lacking), Some(id)),
        KmipEvent::KeyFromTheFuture { id, .. } => ("key list", None, Some(id)),
        KmipEvent::KeysUnread { server, .. } => ("key list", Some(server), None),
    };
    let (server, kek_id) = (server.map(ToString::to_string), kek_id.map(ToString::to_string));
    let action = Action { server, kek_id, note: Some(event.to_string()), ..Action::own(verb) };
    let result = match event {
        KmipEvent::ServerFailed { .. } | KmipEvent::AllFailed | KmipEvent::KeysUnread { .. } => {
            Err(Failure::new(FailureKind::Locked, event.to_string()))
        }
        _ => Ok(()),
    };
    (action, result)
}

fn config(call: ProviderAddKmip) -> Result<KmipConfig, Failure> {
    let trust = trust(call.ca, call.pins)?.ok_or_else(one_of_the_two)?;
    let mut config = KmipConfig::new(addresses(&call.servers)?, trust, call.certificate, call.key);
    config.proxy = proxy(call.proxy.as_deref(), None)?;
    (config.user, config.password_file) = (call.user, call.password_file);
    config.max_age = call.max_age.filter(|&seconds| seconds > 0);
    config.allow_unreplicated = call.allow_unreplicated;
    if let Some(group) = call.group {
        config.group = group;
    }
    Ok(config)
}

/// What a call says of how servers are known, where it says something.
pub(super) fn trust(ca: Option<PathBuf>, pins: Option<Vec<String>>) -> Result<Option<Trust>, Failure> {
    match (ca, pins) {
        (Some(ca), None) => Ok(Some(Trust::Ca(ca))),
        (None, Some(pins)) => {
            let pins = pins.iter().map(|pin| pin.parse()).collect::<Result<_, _>>().map_err(invalid)?;
            Ok(Some(Trust::Pins(pins)))
        }
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(one_of_the_two()),
    }
}

fn one_of_the_two() -> Failure {
    let message = "key servers are known by an authority or by pinned certificates: give one of the two";
    Failure::new(FailureKind::InvalidArgument, message)
}

/// Servers as events have them.
pub(super) fn named<T: ToString>(servers: &[T]) -> Option<String> {
    let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Some(names.join(" ")).filter(|names| !names.is_empty())
}

pub(super) fn addresses(texts: &[String]) -> Result<Vec<ServerAddress>, Failure> {
    texts.iter().map(|text| text.parse().map_err(invalid)).collect()
}

pub(super) fn invalid(error: impl std::error::Error) -> Failure {
    Failure::from_error(FailureKind::InvalidArgument, &error)
}

/// Fails with what is wrong with the first server, unless one serves. The others may come back.
pub(super) fn one_serves(name: &ProviderName, reports: Vec<ServerReport>) -> Result<(), Failure> {
    let mut first = None;
    for report in reports {
        match report.outcome {
            Ok(_) => return Ok(()),
            Err(error) => first = first.or(Some(error)),
        }
    }
    let Some(error) = first else { return Ok(()) };
    let failure = Failure::new(
        FailureKind::Locked,
        format!("no server of key provider {name} serves this host: {}", error.line()),
    );
    Err(Failure { hint: error.fault.hint().map(str::to_owned), ..failure })
}

fn key_server(report: ServerReport) -> KeyServer {
    let server = report.server.to_string();
    match report.outcome {
        Ok(found) => KeyServer { server, problem: None, hint: None, status: Some(status(found)) },
        Err(error) => KeyServer {
            server,
            problem: Some(error.fault.line()),
            hint: error.fault.hint().map(str::to_owned),
            status: None,
        },
    }
}

fn status(found: ServerStatus) -> KeyServerStatus {
    KeyServerStatus {
        address: found.address.to_string(),
        tls: found.tls,
        cipher: found.cipher,
        certificate: found.certificate.as_ref().map(certificate),
        versions: found.versions.iter().map(ToString::to_string).collect(),
        vendor: found.vendor,
        latency_us: u64::try_from(found.latency.as_micros()).unwrap_or(u64::MAX),
        operations: found.operations.iter().map(ToString::to_string).collect(),
    }
}

fn certificate(info: &CertificateInfo) -> Certificate {
    Certificate {
        subject: info.subject.clone(),
        issuer: info.issuer.clone(),
        not_before: kmip::date(info.not_before),
        not_after: kmip::date(info.not_after),
        fingerprint: info.fingerprint.to_string(),
    }
}
