//! A volume's DEK: made and wrapped when the volume is made, unwrapped and checked when it is opened.

use ublk_targets::secret::Dek;

use super::VolumeError;
use crate::luks::{self, FormatOptions, Header, Place, Token};
use crate::provider::{KekId, KekState, KeyProvider, ProviderError, wrap};

/// Makes a volume at `place` with a new DEK under the KEK that [`wrapping_kek`] gives. Where it refuses, nothing has
/// been written to the backing.
pub fn create(
    place: &Place,
    options: &FormatOptions,
    provider: &dyn KeyProvider,
    wanted: Option<KekId>,
) -> Result<Header, VolumeError> {
    let kek_id = wrapping_kek(provider, wanted)?;
    let kek = provider.fetch_kek(&kek_id)?;
    let dek = Dek::generate()?;
    let wrapped_dek = wrap::wrap(&kek, &dek).map_err(ProviderError::Wrap)?;
    let token = Token { provider: provider.name().clone(), kek_id, wrapped_dek };
    Ok(luks::format(place, options, &dek, &token)?)
}

/// The KEK that is to wrap a DEK: the one that is `wanted`, if it is active, or else the newest active one, made if there
/// is none.
pub fn wrapping_kek(provider: &dyn KeyProvider, wanted: Option<KekId>) -> Result<KekId, VolumeError> {
    let Some(id) = wanted else {
        let newest = provider.list_keks()?.into_iter().rev().find(|kek| kek.state == KekState::Active);
        return match newest {
            Some(kek) => Ok(kek.id),
            None => Ok(provider.create_kek()?),
        };
    };
    match provider.kek(&id)?.state {
        KekState::Active => Ok(id),
        state => {
            let provider = provider.name().clone();
            Err(ProviderError::KekNotActive { provider, id, state }.into())
        }
    }
}

/// The DEK of the volume with this header, checked against the header's digest.
pub fn unlock(header: &Header, provider: &dyn KeyProvider) -> Result<Dek, VolumeError> {
    let token = &header.token;
    let kek = provider.fetch_kek(&token.kek_id)?;
    let dek = wrap::unwrap(&kek, &token.wrapped_dek).map_err(|source| VolumeError::Unwrap {
        backing: header.place.backing.clone(),
        kek_id: token.kek_id.clone(),
        provider: token.provider.clone(),
        source,
    })?;
    header.verify(&dek)?;
    Ok(dek)
}
