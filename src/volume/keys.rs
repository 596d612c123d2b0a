//! A volume's DEK: made and wrapped when the volume is made, unwrapped and checked when it is opened.

use ublk_targets::secret::Dek;

use super::VolumeError;
use crate::luks::{self, FormatOptions, Header, Place, Token};
use crate::provider::{KekId, KekState, KeyProvider, ProviderError, wrap};

/// Makes a volume at `place` with a new DEK under the provider's newest active KEK. Where it refuses, nothing has been
/// written to the backing.
pub fn create(
    place: &Place,
    options: &FormatOptions,
    provider: &dyn KeyProvider,
) -> Result<Header, VolumeError> {
    let kek_id = wrapping_kek(provider)?;
    let kek = provider.fetch_kek(&kek_id)?;
    let dek = Dek::generate()?;
    let wrapped_dek = wrap::wrap(&kek, &dek).map_err(ProviderError::Wrap)?;
    let token = Token { provider: provider.name().clone(), kek_id, wrapped_dek };
    Ok(luks::format(place, options, &dek, &token)?)
}

/// The KEK that wraps new DEKs: the newest active one, made if there is none.
pub fn wrapping_kek(provider: &dyn KeyProvider) -> Result<KekId, VolumeError> {
    let newest = provider.list_keks()?.into_iter().rev().find(|kek| kek.state == KekState::Active);
    match newest {
        Some(kek) => Ok(kek.id),
        None => Ok(provider.create_kek()?),
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
