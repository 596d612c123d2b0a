//! What the daemon does with KMIP providers beyond what it does with every provider.

use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use super::events::{Action, Recorder};
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
use crate::provider::{ProviderConfig, ProviderError, ProviderName};
use crate::volume;

/// How often KEKs are looked at that may be too old to be kept.
const AGE_INTERVAL: Duration = Duration::from_secs(5);

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
        let provider = KmipProvider::new(name.clone(), config, observer(&self.recorder));
        volume::wrapping_kek(&provider, None)?;
        let mut providers = self.providers();
        providers.add_kmip(provider)?;
        if make_default {
            providers.set_default(&name)?;
        }
        drop(providers);
        self.provider(&name)
    }

    pub(super) fn provider_check(&self, name: &Name) -> Result<Checked, Failure> {
        let name = provider_name(name)?;
        let summary = self.providers().list().into_iter().find(|summary| summary.name == name);
        match summary.ok_or_else(|| ProviderError::UnknownProvider(name.clone()))?.config {
            ProviderConfig::Kmip(config) => {
                let reports = kmip::check(&config)
                    .map_err(|source| ProviderError::Kmip { provider: name.clone(), source })?;
                Ok(Checked { servers: reports.into_iter().map(key_server).collect() })
            }
            ProviderConfig::Native { .. } => {
                let message = format!("key provider {name} has no servers to check");
                Err(Failure::new(FailureKind::InvalidArgument, message))
            }
        }
    }

    /// Wipes KEKs as they get too old, from now on.
    pub(super) fn watch_age_of_keks(self: &Arc<Self>) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(AGE_INTERVAL);
                let providers = daemon.providers();
                providers
                    .list()
                    .iter()
                    .filter_map(|summary| providers.get(&summary.name).ok())
                    .for_each(|provider| provider.drop_old_keks());
            }
        });
    }
}

/// Records what happens with the servers and keys of every KMIP provider.
pub(super) fn observer(recorder: &Arc<Recorder>) -> Observer {
    let recorder = Arc::clone(recorder);
    Arc::new(move |provider, event| {
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
        KmipEvent::KeyFetched { id, server } => ("key fetch", Some(server), Some(id)),
        KmipEvent::KeyOutOfUse { id, server, .. } => ("key use", Some(server), Some(id)),
        KmipEvent::KeyDropped(id) => ("key drop", None, Some(id)),
    };
    let (server, kek_id) = (server.map(ToString::to_string), kek_id.map(ToString::to_string));
    let action = Action { server, kek_id, note: Some(event.to_string()), ..Action::own(verb) };
    let result = match event {
        KmipEvent::ServerFailed { .. } | KmipEvent::AllFailed => {
            Err(Failure::new(FailureKind::Locked, event.to_string()))
        }
        _ => Ok(()),
    };
    (action, result)
}

/// The certificates of servers that are not trusted yet.
pub(super) fn meet(call: &ProviderMeet) -> Result<Met, Failure> {
    let servers = addresses(&call.servers)?;
    let proxy = call.proxy.as_deref().map(str::parse).transpose().map_err(invalid)?;
    let met = servers.iter().map(|server| {
        let info = kmip::meet(server, proxy.as_ref(), &Limits::default()).map_err(|error| {
            let failure = Failure::from_error(FailureKind::Locked, &error);
            Failure { hint: error.fault.hint().map(str::to_owned), ..failure }
        })?;
        Ok(MetCertificate { server: server.to_string(), certificate: certificate(&info) })
    });
    Ok(Met { certificates: met.collect::<Result<_, Failure>>()? })
}

fn config(call: ProviderAddKmip) -> Result<KmipConfig, Failure> {
    let trust = match (call.ca, call.pins) {
        (Some(ca), None) => Trust::Ca(ca),
        (None, Some(pins)) => {
            Trust::Pins(pins.iter().map(|pin| pin.parse()).collect::<Result<_, _>>().map_err(invalid)?)
        }
        _ => {
            let message =
                "key servers are known by an authority or by pinned certificates: give one of the two";
            return Err(Failure::new(FailureKind::InvalidArgument, message));
        }
    };
    let mut config = KmipConfig::new(addresses(&call.servers)?, trust, call.certificate, call.key);
    config.proxy = call.proxy.as_deref().map(str::parse).transpose().map_err(invalid)?;
    (config.user, config.password_file) = (call.user, call.password_file);
    config.max_age = call.max_age;
    if let Some(group) = call.group {
        config.group = group;
    }
    Ok(config)
}

fn addresses(texts: &[String]) -> Result<Vec<ServerAddress>, Failure> {
    texts.iter().map(|text| text.parse().map_err(invalid)).collect()
}

fn invalid(error: impl std::error::Error) -> Failure {
    Failure::from_error(FailureKind::InvalidArgument, &error)
}

/// Fails with what is wrong with the first server, unless one serves. The others may come back.
fn one_serves(name: &ProviderName, reports: Vec<ServerReport>) -> Result<(), Failure> {
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
