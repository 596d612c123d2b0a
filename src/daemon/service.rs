//! The calls of `io.blkseal.Daemon`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use ublk_targets::device;

use super::Daemon;
use super::authorise::{Caller, Privilege, Rule};
use super::events::Event;
use super::key_servers;
use crate::control::{
    DaemonCalls, Failure, FailureKind, Interface, Nothing, Peer, Secrets, Service, Version,
};
use crate::provider::{KekChange, Revocation};

impl Service for Daemon {
    type Calls = DaemonCalls;

    fn answer(self: &Arc<Self>, peer: &Peer, call: DaemonCalls, secrets: Secrets) -> Result<Value, Failure> {
        let rule = Rule::of(call.method())?;
        let caller = self.caller(peer);
        let mut event = describe(&call, rule.verb);
        event.peer = Some(peer.clone());
        let result = caller
            .require(rule.privilege, &format!("'{}'", rule.verb))
            .and_then(|()| self.carry_out(call, secrets, &caller, &mut event));
        let was_refused = matches!(&result, Err(failure) if failure.kind == FailureKind::NotPermitted);
        if rule.privilege != Privilege::Look || was_refused {
            event.record(&result);
        }
        result
    }
}

impl Daemon {
    /// Who calls, by the roles as they are now.
    fn caller(&self, peer: &Peer) -> Caller {
        if let Some(result) = self.roles.refresh() {
            Event::own("roles").record(&result);
        }
        Caller::new(peer, &self.roles)
    }

    fn carry_out(
        self: &Arc<Self>,
        call: DaemonCalls,
        mut secrets: Secrets,
        caller: &Caller,
        event: &mut Event,
    ) -> Result<Value, Failure> {
        use DaemonCalls as Calls;
        match call {
            Calls::Ping(_) => reply(Ok(Nothing {})),
            Calls::GetVersion(_) => reply(Ok(self.version())),
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
            Calls::KekList(call) => reply(self.kek_list(call.provider.as_ref())),
            Calls::KekShow(call) => reply(self.kek_show(&call.provider, &call.kek_id)),
            Calls::KekCreate(call) => reply(self.kek_create(&call, event)),
            Calls::KekActivate(call) => {
                reply(self.kek_change(&call.provider, &call.kek_id, KekChange::Activate))
            }
            Calls::KekRevoke(call) => {
                let why = if call.compromised { Revocation::Compromise } else { Revocation::Superseded };
                reply(self.kek_change(&call.provider, &call.kek_id, KekChange::Revoke(why)))
            }
            Calls::KekDestroy(call) => {
                reply(self.kek_change(&call.provider, &call.kek_id, KekChange::Destroy))
            }
            Calls::Create(call) => reply(self.create(&call, event)),
            Calls::Open(call) => reply(self.open(&call, caller, event)),
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

    fn version(&self) -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ublk: device::check_available().is_ok(),
            problems: self.roles.problem().into_iter().collect(),
        }
    }
}

fn reply<R: Serialize>(result: Result<R, Failure>) -> Result<Value, Failure> {
    result.map(|reply| json!(reply))
}

/// What the call itself says about the change that it asks for, as `verb` on the command line.
fn describe(call: &DaemonCalls, verb: &'static str) -> Event {
    use DaemonCalls as Calls;
    let provider = |name: &crate::name::Name| Event { provider: Some(name.to_string()), ..Event::own(verb) };
    let kek = |name: &crate::name::Name, id: &str| Event { kek_id: Some(id.into()), ..provider(name) };
    let volume = |text: &str| Event { volume: Some(text.to_owned()), ..Event::own(verb) };
    match call {
        Calls::Ping(_)
        | Calls::GetVersion(_)
        | Calls::ProviderMeet(_)
        | Calls::ProviderList(_)
        | Calls::KekList(_)
        | Calls::KekCreate(_)
        | Calls::List(_) => Event::own(verb),
        Calls::ProviderAdd(call) => provider(&call.name),
        Calls::ProviderAddKmip(call) => provider(&call.name),
        Calls::ProviderCheck(call) => provider(&call.name),
        Calls::ProviderRemove(call) => provider(&call.name),
        Calls::ProviderSetDefault(call) => provider(&call.name),
        Calls::ProviderUnlock(call) => provider(&call.name),
        Calls::ProviderLock(call) => provider(&call.name),
        Calls::KekShow(call) => kek(&call.provider, &call.kek_id),
        Calls::KekActivate(call) => kek(&call.provider, &call.kek_id),
        Calls::KekRevoke(call) => kek(&call.provider, &call.kek_id),
        Calls::KekDestroy(call) => kek(&call.provider, &call.kek_id),
        Calls::Create(call) => volume(call.name.as_str()),
        Calls::Open(call) => volume(&call.volume),
        Calls::OpenTarget(call) => volume(call.name.as_str()),
        Calls::Close(call) => volume(&call.volume),
        Calls::Status(call) => volume(&call.volume),
        Calls::RecoveryAdd(call) => volume(&call.volume),
        Calls::RecoveryRemove(call) => volume(&call.volume),
    }
}
