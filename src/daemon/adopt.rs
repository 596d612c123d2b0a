//! Volumes that come from stock cryptsetup, and go back to it.

use ublk_targets::secret::Secret;

use super::Daemon;
use super::authorise::Caller;
use super::events::Action;
use super::keks::kek_id;
use super::privilege::Privilege;
use super::volumes::{place, tell};
use crate::control::{Adopt, Failure, FailureKind, Nothing, Volume};
use crate::luks::{Header, LuksError, Token, TokenError};
use crate::name::Name;
use crate::volume::{self, VolumeError};

impl Daemon {
    pub(super) fn adopt(
        &self,
        call: &Adopt,
        passphrase: &Secret,
        caller: &Caller,
        action: &mut Action,
    ) -> Result<Volume, Failure> {
        if call.remove_passphrases {
            caller.require(Privilege::Decrypt, "'adopt --remove-passphrases'")?;
        }
        let _turn = self.turns.take(&call.name);
        let place = place(&call.backing, call.header.as_deref())?;
        self.check_name_is_free(&call.name)?;
        self.check_is_no_known_volumes(&place)?;
        let (_wrapping, provider) = self.wrapping_provider(call.provider.as_ref())?;
        let wanted = call.kek_id.as_deref().map(kek_id).transpose()?;
        let enter = |uuid, token: &Token| self.enter(&call.name, uuid, &place, token);
        let adopted = volume::adopt(&place, passphrase, &*provider, wanted, enter);
        let mut header = self.or_take_back(&call.name, adopted)?;
        tell(action, &call.name, &header);
        self.note_verified(&header);
        if call.remove_passphrases {
            remove_passphrases(&call.name, &mut header)?;
            action.note = Some("its passphrases are removed".into());
        }
        Ok(self.new_volume(&call.name))
    }

    pub(super) fn release(&self, text: &str, action: &mut Action) -> Result<Nothing, Failure> {
        let name = self.name_of(text).ok_or_else(|| VolumeError::Unknown(text.to_owned()))?;
        let _turn = self.turns.take(&name);
        *action = Action { actor: action.actor, ..self.action_on(name.as_str(), action.verb) };
        self.check_closed(&name)?;
        if !self.was_released(&name) {
            self.header_of(&name)?.release()?;
        }
        let uuid = self.volumes().get(&name).map(|known| known.uuid);
        uuid.map_or(Ok(()), |uuid| self.volumes.remove(uuid))?;
        Ok(Nothing {})
    }

    /// That the volume has no device and is not to get one.
    pub(super) fn check_closed(&self, name: &Name) -> Result<(), Failure> {
        let what = match (self.devices().contains_key(name), self.wishes().contains_key(name)) {
            (true, _) => "is open",
            (false, true) => "is to be opened once its key is to be had",
            (false, false) => return Ok(()),
        };
        let failure = Failure::new(FailureKind::Busy, format!("volume {name} {what}"));
        Err(failure.hint(format!("close it first: blkseal close {name}")))
    }

    /// Whether the volume's token is gone, as where a release was cut off before this host forgot the volume.
    fn was_released(&self, name: &Name) -> bool {
        let known = self.volumes().get(name).cloned();
        let header = known.and_then(|known| self.looked(&known.place()).ok());
        let error = header.and_then(Result::err);
        matches!(error.as_deref(), Some(LuksError::Token { source: TokenError::Missing, .. }))
    }
}

fn remove_passphrases(name: &Name, header: &mut Header) -> Result<(), Failure> {
    let slots: Vec<u32> = header.keyslots.iter().map(|keyslot| keyslot.slot).collect();
    slots.into_iter().try_for_each(|slot| header.recovery_remove(slot)).map_err(|error| {
        let failure = Failure::from(error);
        let message = format!("volume {name} is adopted, but keeps passphrases: {failure}");
        Failure { message, ..failure }.hint(format!("remove them with: blkseal recovery remove {name} --all"))
    })
}
