//! The calls of `io.blkseal.Daemon`.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use ublk_targets::device;

use super::Daemon;
use super::authorise::{Caller, Rule};
use super::events::Action;
use super::key_servers::named;
use super::privilege::Privilege;
use crate::control::{
    DaemonCalls, Failure, FailureKind, Interface, Nothing, Peer, Secrets, Service, Version,
};
use crate::name::Name;
use crate::provider::{KekChange, Revocation};
use crate::volume::Known;

impl Service for Daemon {
    type Calls = DaemonCalls;

    fn answer(self: &Arc<Self>, peer: &Peer, call: DaemonCalls, secrets: Secrets) -> Result<Value, Failure> {
        let rule = Rule::of(call.method())?;
        let caller = self.caller(peer);
        let mut action = Action::of(peer, self.action_of(&call, rule.verb));
        let result = caller
            .require(rule.privilege, &format!("'{}'", rule.verb))
            .and_then(|()| self.carry_out(call, secrets, &caller, &mut action));
        // What fails for another reason than the caller's privileges is of another kind.
        let was_refused = matches!(&result, Err(failure) if failure.kind == FailureKind::NotPermitted);
        if rule.privilege != Privilege::Look || was_refused {
            self.recorder.record(&action, &result);
        }
        result
    }

    fn knows(&self, peer: &Peer) -> bool {
        !self.roles.privileges_of(peer).is_empty()
    }
}

impl Daemon {
    /// Who calls, by the roles as they are now.
    fn caller(&self, peer: &Peer) -> Caller {
        if let Some(result) = self.roles.refresh() {
            self.recorder.record(&Action::own("roles"), &result);
        }
        Caller::new(peer, &self.roles)
    }

    fn carry_out(
        self: &Arc<Self>,
        call: DaemonCalls,
        mut secrets: Secrets,
        caller: &Caller,
        action: &mut Action,
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
            Calls::ProviderMeet(call) => reply(self.provider_meet(&call)),
            Calls::ProviderSet(call) => reply(self.provider_set(call, action)),
            Calls::ProviderCheck(call) => reply(self.provider_check(&call.name)),
            Calls::ProviderList(_) => reply(self.provider_list()),
            Calls::ProviderRemove(call) => reply(self.provider_remove(&call.name)),
            Calls::ProviderSetDefault(call) => reply(self.provider_set_default(&call.name)),
            Calls::ProviderUnlock(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.provider_unlock(&call.name, &secret))
            }
            Calls::ProviderReseal(call) => {
                let (old, new) = (secrets.take(call.secret)?, secrets.take(call.new_secret)?);
                reply(self.provider_reseal(&call.name, &old, &new))
            }
            Calls::ProviderLock(call) => reply(self.provider_lock(&call.name)),
            Calls::KekList(call) => reply(self.kek_list(call.provider.as_ref())),
            Calls::KekShow(call) => reply(self.kek_show(&call.provider, &call.kek_id)),
            Calls::KekCreate(call) => reply(self.kek_create(&call, action)),
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
            Calls::Create(call) => reply(self.create(&call, action)),
            Calls::Open(call) => {
                if call.options.tunes() {
                    caller.require(Privilege::Tune, "'open' with an option that tunes the device")?;
                }
                reply(self.open(&call, caller, action))
            }
            Calls::OpenTarget(call) => reply(self.open_target(&call)),
            Calls::Close(call) => reply(self.close(&call, action)),
            Calls::List(_) => reply(self.list()),
            Calls::Events(call) => reply(self.events(&call)),
            Calls::Status(call) => reply(self.status(&call.volume)),
            Calls::RecoveryAdd(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.recovery_add(&call.volume, &secret, action))
            }
            Calls::RecoveryRemove(call) => reply(self.recovery_remove(&call, action)),
            Calls::Rekey(call) => reply(self.rekey(&call, action)),
            Calls::Adopt(call) => {
                let secret = secrets.take(call.secret)?;
                reply(self.adopt(&call, &secret, caller, action))
            }
            Calls::Release(call) => reply(self.release(&call.volume, action)),
            Calls::Forget(call) => reply(self.forget_volume(&call, caller, action)),
            Calls::Erase(call) => reply(self.erase(&call.volume, action)),
        }
    }

    /// What the call itself says about the change that it asks for, as `verb` on the command line.
    fn action_of(&self, call: &DaemonCalls, verb: &'static str) -> Action {
        use DaemonCalls as Calls;
        let provider = |name: &Name| Action { provider: Some(name.to_string()), ..Action::own(verb) };
        let kek = |name: &Name, id: &str| Action { kek_id: Some(id.into()), ..provider(name) };
        let new = |name: &Name| Action { volume: Some(name.to_string()), ..Action::own(verb) };
        let volume = |text: &str| self.action_on(text, verb);
        match call {
            Calls::Ping(_)
            | Calls::GetVersion(_)
            | Calls::ProviderList(_)
            | Calls::KekList(_)
            | Calls::KekCreate(_)
            | Calls::List(_)
            | Calls::Events(_) => Action::own(verb),
            Calls::ProviderAdd(call) => provider(&call.name),
            Calls::ProviderAddKmip(call) => Action { server: named(&call.servers), ..provider(&call.name) },
            Calls::ProviderMeet(call) => Action {
                server: named(&call.servers),
                provider: call.name.as_ref().map(Name::to_string),
                ..Action::own(verb)
            },
            Calls::ProviderSet(call) => {
                Action { server: call.servers.as_deref().and_then(named), ..provider(&call.name) }
            }
            Calls::ProviderCheck(call) => provider(&call.name),
            Calls::ProviderRemove(call) => provider(&call.name),
            Calls::ProviderSetDefault(call) => provider(&call.name),
            Calls::ProviderUnlock(call) => provider(&call.name),
            Calls::ProviderReseal(call) => provider(&call.name),
            Calls::ProviderLock(call) => provider(&call.name),
            Calls::KekShow(call) => kek(&call.provider, &call.kek_id),
            Calls::KekActivate(call) => kek(&call.provider, &call.kek_id),
            Calls::KekRevoke(call) => kek(&call.provider, &call.kek_id),
            Calls::KekDestroy(call) => kek(&call.provider, &call.kek_id),
            Calls::Create(call) => new(&call.name),
            Calls::Open(call) => volume(&call.volume),
            Calls::OpenTarget(call) => new(&call.name),
            Calls::Close(call) => volume(&call.volume),
            Calls::Status(call) => volume(&call.volume),
            Calls::RecoveryAdd(call) => volume(&call.volume),
            Calls::RecoveryRemove(call) => volume(&call.volume),
            Calls::Rekey(call) => volume(&call.volume),
            Calls::Adopt(call) => new(&call.name),
            Calls::Release(call) => volume(&call.volume),
            Calls::Forget(call) => volume(&call.volume),
            Calls::Erase(call) => volume(&call.volume),
        }
    }

    /// An action on the volume that has `text` for its name or UUID. Paths are not looked at, for anybody may ask.
    pub(super) fn action_on(&self, text: &str, verb: &'static str) -> Action {
        let volumes = self.volumes();
        let called =
            |(name, known): &(&Name, &Known)| name.as_str() == text || known.uuid.to_string() == text;
        match volumes.iter().find(called) {
            Some((name, known)) => Action {
                volume: Some(name.to_string()),
                uuid: Some(known.uuid),
                provider: Some(known.provider.to_string()),
                kek_id: Some(known.kek_id.to_string()),
                ..Action::own(verb)
            },
            None => Action { volume: Some(text.to_owned()), ..Action::own(verb) },
        }
    }

    fn version(&self) -> Version {
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            ublk: device::check_available().is_ok(),
            problems: self.roles.problem().into_iter().chain(self.recorder.problem()).collect(),
        }
    }
}

fn reply<R: Serialize>(result: Result<R, Failure>) -> Result<Value, Failure> {
    result.map(|reply| json!(reply))
}
