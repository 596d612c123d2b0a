//! How this host ends with a volume: it forgets it, or destroys what opens it.

use uuid::Uuid;

use super::Daemon;
use super::authorise::Caller;
use super::events::Action;
use super::privilege::Privilege;
use super::providers::some_of;
use crate::control::{Erased, Failure, FailureKind, Forget, Forgotten};
use crate::luks;
use crate::name::Name;
use crate::volume::{self, VolumeError};

impl Daemon {
    /// Forgets a volume, but for the KEK that a disk with it would need, should it turn up; `for_good`, that as well.
    pub(super) fn forget_volume(
        &self,
        call: &Forget,
        caller: &Caller,
        action: &mut Action,
    ) -> Result<Forgotten, Failure> {
        if call.for_good {
            caller.require(Privilege::ManageKeys, "'forget --for-good'")?;
        }
        let Some(name) = self.name_of(&call.volume) else { return self.forget_rest(call, action) };
        let _turn = self.turns.take(&name);
        *action = Action { actor: action.actor, ..self.action_on(name.as_str(), action.verb) };
        self.check_closed(&name)?;
        let known = self.volumes().get(&name).cloned();
        let known = known.ok_or_else(|| VolumeError::Unknown(call.volume.clone()))?;
        self.volumes.forget(known.uuid, call.for_good)?;
        let (provider, kek_id) = (known.provider.to_string(), known.kek_id.to_string());
        note(action, call.for_good);
        Ok(Forgotten { name, uuid: known.uuid, provider, kek_id, for_good: call.for_good })
    }

    /// Forgets what was left of a volume.
    fn forget_rest(&self, call: &Forget, action: &mut Action) -> Result<Forgotten, Failure> {
        let volumes = self.volumes();
        let uuid = Uuid::try_parse(&call.volume).ok();
        let mut meant = volumes
            .forgotten()
            .filter(|(other, forgotten)| Some(**other) == uuid || forgotten.name.as_str() == call.volume);
        let (uuid, forgotten) = match (meant.next(), meant.next()) {
            (Some(one), None) => one,
            (Some(_), Some(_)) => {
                let message = format!("several volumes with the name {} were forgotten", call.volume);
                let failure = Failure::new(FailureKind::InvalidArgument, message);
                return Err(
                    failure.hint("name the one that is meant by its UUID, which `blkseal events` shows")
                );
            }
            _ => return Err(VolumeError::Unknown(call.volume.clone()).into()),
        };
        let name = forgotten.name.clone();
        let (provider, kek_id) = (forgotten.provider.to_string(), forgotten.kek_id.to_string());
        action.volume = Some(name.to_string());
        action.uuid = Some(*uuid);
        (action.provider, action.kek_id) = (Some(provider.clone()), Some(kek_id.clone()));
        if !call.for_good {
            let message =
                format!("volume {name} is forgotten already, but for its KEK {kek_id} of {provider}");
            return Err(Failure::new(FailureKind::NotFound, message)
                .hint("--for-good forgets that, too: then `blkseal kek destroy` may end what opens it"));
        }
        self.volumes.forget(*uuid, true)?;
        note(action, true);
        Ok(Forgotten { name, uuid: *uuid, provider, kek_id, for_good: true })
    }

    /// Destroys what opens a volume, and forgets it.
    pub(super) fn erase(&self, text: &str, action: &mut Action) -> Result<Erased, Failure> {
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        let _turn = self.turns.take(&name);
        *action = Action { actor: action.actor, ..self.action_on(name.as_str(), action.verb) };
        self.check_closed(&name)?;
        let known = self.volumes().get(&name).cloned();
        let known = known.ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        luks::erase(&known.place(), known.uuid)?;
        self.volumes.remove(known.uuid)?;
        let volumes = self.volumes();
        let others = volumes
            .iter()
            .filter(|(_, other)| (&other.provider, &other.kek_id) == (&known.provider, &known.kek_id));
        let mut needed_by: Vec<Name> = others.map(|(name, _)| name.clone()).collect();
        needed_by.extend(
            self.forgotten_with(|other| (&other.provider, &other.kek_id) == (&known.provider, &known.kek_id)),
        );
        let (provider, kek_id) = (known.provider.to_string(), known.kek_id.to_string());
        Ok(Erased { name, uuid: known.uuid, provider, kek_id, needed_by })
    }

    /// That no volume that this host was told to forget, and that may turn up, needs what is about to end.
    pub(super) fn check_no_forgotten_needs(
        &self,
        what: &str,
        needs: impl Fn(&volume::Forgotten) -> bool,
    ) -> Result<(), Failure> {
        let names = self.forgotten_with(needs);
        if names.is_empty() {
            return Ok(());
        }
        let message = format!("{what} of what was forgotten: {}", some_of(&names));
        Err(Failure::new(FailureKind::Busy, message)
            .hint("where no disk with such a volume is to be opened again: `blkseal forget NAME --for-good`"))
    }

    /// The names of the forgotten volumes of which `is_it` is true.
    fn forgotten_with(&self, is_it: impl Fn(&volume::Forgotten) -> bool) -> Vec<Name> {
        let volumes = self.volumes();
        let mut names: Vec<Name> = volumes
            .forgotten()
            .filter(|(_, volume)| is_it(volume))
            .map(|(_, volume)| volume.name.clone())
            .collect();
        names.sort();
        names
    }
}

fn note(action: &mut Action, for_good: bool) {
    action.note = for_good.then(|| "for good: its KEK is not kept for it".into());
}
