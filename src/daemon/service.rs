//! The calls of `io.blkseal.Daemon`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use ublk_targets::device;

use super::Daemon;
use super::authorise::{Privilege, authorise};
use super::events::Event;
use super::key_servers;
use crate::control::{DaemonCalls, Failure, FailureKind, Nothing, Peer, Secrets, Service, Version};

impl Service for Daemon {
    type Calls = DaemonCalls;

    fn answer(self: &Arc<Self>, peer: Peer, call: DaemonCalls, secrets: Secrets) -> Result<Value, Failure> {
        let mut event = describe(&call);
        event.peer = Some(peer);
        let is_change = Privilege::of(&call) != Privilege::Look;
        let result =
            authorise(peer, Privilege::of(&call)).and_then(|()| self.carry_out(call, secrets, &mut event));
        if is_change || matches!(&result, Err(failure) if failure.kind == FailureKind::NotPermitted) {
            event.record(&result);
        }
        result
    }
}

impl Daemon {
    fn carry_out(
        self: &Arc<Self>,
        call: DaemonCalls,
        mut secrets: Secrets,
        event: &mut Event,
    ) -> Result<Value, Failure> {
        use DaemonCalls as Calls;
        match call {
            Calls::Ping(_) => reply(Ok(Nothing {})),
            Calls::GetVersion(_) => reply(Ok(version())),
            Calls::ProviderAdd(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.provider_add(call, &secret))
            }
            Calls::ProviderAddKmip(call) => reply(self.provider_add_kmip(call)),
            Calls::ProviderMeet(call) => reply(key_servers::meet(&call)),
            Calls::ProviderCheck(call) => reply(self.provider_check(&call.name)),
            Calls::ProviderList(_) => reply(self.provider_list()),
            Calls::ProviderRemove(call) => reply(self.provider_remove(&call.name)),
            Calls::ProviderSetDefault(call) => reply(self.provider_set_default(&call.name)),
            Calls::ProviderUnlock(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.provider_unlock(&call.name, &secret))
            }
            Calls::ProviderLock(call) => reply(self.provider_lock(&call.name)),
            Calls::Create(call) => reply(self.create(&call, event)),
            Calls::Open(call) => reply(self.open(&call, event)),
            Calls::OpenTarget(call) => reply(self.open_target(&call)),
            Calls::Close(call) => reply(self.close(&call.volume, event)),
            Calls::List(_) => reply(self.list()),
            Calls::Status(call) => reply(self.status(&call.volume)),
            Calls::RecoveryAdd(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.recovery_add(&call.volume, &secret, event))
            }
            Calls::RecoveryRemove(call) => reply(self.recovery_remove(&call.volume, call.keyslot, event)),
        }
    }
}

fn reply<R: Serialize>(result: Result<R, Failure>) -> Result<Value, Failure> {
    result.map(|reply| json!(reply))
}

fn version() -> Version {
    Version {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        ublk: device::check_available().is_ok(),
    }
}

/// What the call itself says about the change that it asks for.
fn describe(call: &DaemonCalls) -> Event {
    use DaemonCalls as Calls;
    let provider =
        |verb, name: &crate::name::Name| Event { provider: Some(name.to_string()), ..Event::own(verb) };
    let volume = |verb, text: &str| Event { volume: Some(text.to_owned()), ..Event::own(verb) };
    match call {
        Calls::Ping(_) => Event::own("ping"),
        Calls::GetVersion(_) => Event::own("version"),
        Calls::ProviderAdd(call) => provider("provider-add", &call.name),
        Calls::ProviderAddKmip(call) => provider("provider-add", &call.name),
        Calls::ProviderMeet(_) => Event::own("provider-meet"),
        Calls::ProviderCheck(call) => provider("provider-check", &call.name),
        Calls::ProviderList(_) => Event::own("provider-list"),
        Calls::ProviderRemove(call) => provider("provider-remove", &call.name),
        Calls::ProviderSetDefault(call) => provider("provider-default", &call.name),
        Calls::ProviderUnlock(call) => provider("provider-unlock", &call.name),
        Calls::ProviderLock(call) => provider("provider-lock", &call.name),
        Calls::Create(call) => volume("create", call.name.as_str()),
        Calls::Open(call) => volume("open", &call.volume),
        Calls::OpenTarget(call) => volume("open-target", call.name.as_str()),
        Calls::Close(call) => volume("close", &call.volume),
        Calls::List(_) => Event::own("list"),
        Calls::Status(call) => volume("status", &call.volume),
        Calls::RecoveryAdd(call) => volume("recovery-add", &call.volume),
        Calls::RecoveryRemove(call) => volume("recovery-remove", &call.volume),
    }
}
