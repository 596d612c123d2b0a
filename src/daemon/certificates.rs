//! This host's certificates, which end some day: each day says so from some time before.

use std::sync::Arc;
use std::time::Duration;

use super::Daemon;
use super::events::Action;
use crate::control::{Failure, FailureKind};
use crate::provider::kmip::{self, KmipConfig};
use crate::provider::{ProviderConfig, ProviderError, ProviderName};

/// How often they are looked at.
const PERIOD: Duration = Duration::from_secs(24 * 3600);

impl Daemon {
    /// Records each day, from now on, which of this host's certificates end soon or have ended.
    pub(super) fn watch_certificates(self: &Arc<Self>) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            loop {
                daemon.look_at_certificates();
                std::thread::sleep(PERIOD);
            }
        });
    }

    fn look_at_certificates(&self) {
        for summary in self.providers().list() {
            let ProviderConfig::Kmip(config) = summary.config else { continue };
            if let Some(problem) = problem(&summary.name, &config) {
                let action =
                    Action { provider: Some(summary.name.to_string()), ..Action::own("host certificate") };
                self.recorder.record::<()>(&action, &Err(problem));
            }
        }
    }
}

fn problem(name: &ProviderName, config: &KmipConfig) -> Option<Failure> {
    match kmip::host_certificate(config) {
        Ok(host) => Some(Failure::new(FailureKind::Locked, host?.warning?)),
        Err(source) => Some(ProviderError::Kmip { provider: name.clone(), source }.into()),
    }
}
