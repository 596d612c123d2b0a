//! Shallow rekey: a volume's DEK wrapped by another KEK.

use super::Daemon;
use super::events::Action;
use super::keks::kek_id;
use super::providers::provider_name;
use super::volumes::tell;
use crate::control::{Failure, Rekey, Rekeyed};
use crate::failures::of_volume;
use crate::name::Name;
use crate::volume::{self, VolumeError};

impl Daemon {
    /// Has another KEK wrap a volume's DEK, open or not. A volume that has the KEK already is left as it is, so that a
    /// run over many volumes that was stopped can be started again.
    pub(super) fn rekey(&self, call: &Rekey, action: &mut Action) -> Result<Rekeyed, Failure> {
        let name = self.name_of(&call.volume).ok_or_else(|| VolumeError::Unknown(call.volume.clone()))?;
        let _turn = self.turns.take(&name);
        self.rekey_known(name.clone(), call, action).map_err(of_volume(&name))
    }

    fn rekey_known(&self, name: Name, call: &Rekey, action: &mut Action) -> Result<Rekeyed, Failure> {
        let mut header = self.header_of(&name)?;
        tell(action, &name, &header);
        let old = header.token.clone();
        let to = match &call.provider {
            Some(provider) => provider_name(provider)?,
            None => old.provider.clone(),
        };
        let _wrapping = self.wrapping.start(&to)?;
        let to = self.providers().get(&to)?;
        let wanted = call.kek_id.as_deref().map(kek_id).transpose()?;
        let new = volume::wrapping_kek(&*to, wanted)?;
        let rewrapped = (&old.provider, &old.kek_id) != (to.name(), &new);
        if rewrapped {
            let from = self.providers().get(&old.provider)?;
            volume::rewrap(&mut header, &*from, &*to, &new)?;
            self.note_verified(&header);
            tell(action, &name, &header);
            action.note = Some(format!("before, KEK {} of {} wrapped it", old.kek_id, old.provider));
        }
        // Also where nothing was done: it may have been stopped between the header and the registry.
        self.volumes.update(&header)?;
        Ok(Rekeyed {
            name,
            provider: header.token.provider.to_string(),
            kek_id: header.token.kek_id.to_string(),
            old_provider: old.provider.to_string(),
            old_kek_id: old.kek_id.to_string(),
            rewrapped,
        })
    }
}
