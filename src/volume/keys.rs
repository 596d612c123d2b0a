//! A volume's DEK: made and wrapped when the volume is made or adopted, unwrapped and checked when it is opened, wrapped again by
//! another KEK.

use ublk_targets::secret::{Dek, Secret};
use uuid::Uuid;

use super::VolumeError;
use crate::luks::{self, FormatOptions, Header, Place, Token};
use crate::provider::{KekId, KekState, KeyProvider, ProviderError, newest_active, wrap};

/// Makes a volume at `place` with a new DEK under the KEK that [`wrapping_kek`] gives. Once every check has passed, and before
/// anything is written, `enter` is called with its UUID and token. Where this fails nothing has been written to the backing, or
/// there is no volume on it.
pub fn create(
    place: &Place,
    options: &FormatOptions,
    provider: &dyn KeyProvider,
    wanted: Option<KekId>,
    enter: impl FnOnce(Uuid, &Token) -> Result<(), VolumeError>,
) -> Result<Header, VolumeError> {
    let kek_id = wrapping_kek(provider, wanted)?;
    let dek = Dek::generate()?;
    let token = wrap(provider, &kek_id, &dek)?;
    let prepared = luks::prepare(place, options, &dek, &token)?;
    enter(prepared.uuid(), &token)?;
    Ok(prepared.write()?)
}

/// Puts the LUKS2 volume at `place`, which `passphrase` opens, under the KEK that [`wrapping_kek`] gives. No data moves. The
/// token is read back and opens the volume before this returns; where it does not, it is taken away again. Before the token is
/// written, `enter` is called with the volume's UUID and the token.
pub fn adopt(
    place: &Place,
    passphrase: &Secret,
    provider: &dyn KeyProvider,
    wanted: Option<KekId>,
    enter: impl FnOnce(Uuid, &Token) -> Result<(), VolumeError>,
) -> Result<Header, VolumeError> {
    // The passphrase first: for one that is wrong no KEK is made.
    let unlocked = luks::unlock(place, passphrase)?;
    let kek_id = wrapping_kek(provider, wanted)?;
    let token = wrap(provider, &kek_id, unlocked.dek())?;
    enter(unlocked.uuid(), &token)?;
    let header = unlocked.adopt(&token)?;
    match unlock(&header, provider) {
        Ok(_) => Ok(header),
        Err(error) => {
            header.release()?;
            Err(error)
        }
    }
}

/// The KEK that is to wrap a DEK: the one that is `wanted`, if it is active, or else the newest active one, made if there
/// is none.
pub fn wrapping_kek(provider: &dyn KeyProvider, wanted: Option<KekId>) -> Result<KekId, VolumeError> {
    let Some(id) = wanted else {
        return match newest_active(&provider.list_keks()?) {
            Some(id) => Ok(id.clone()),
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

/// A DEK that AES-KWP gave back and that is still to be checked against the header's digest. The check takes a tenth of a
/// second, in which a worker can get ready.
pub struct Unverified<'h> {
    header: &'h Header,
    dek: Dek,
}

impl Unverified<'_> {
    /// The DEK, if it is the one that the header's digest is of.
    pub fn verify(self) -> Result<Dek, VolumeError> {
        self.header.verify(&self.dek)?;
        Ok(self.dek)
    }
}

/// The DEK of the volume with this header, to be checked.
pub fn unwrap<'h>(header: &'h Header, provider: &dyn KeyProvider) -> Result<Unverified<'h>, VolumeError> {
    Ok(Unverified { header, dek: unwrap_token(header, provider)? })
}

/// The DEK of the volume with this header, checked against the header's digest.
pub fn unlock(header: &Header, provider: &dyn KeyProvider) -> Result<Dek, VolumeError> {
    unwrap(header, provider)?.verify()
}

/// Has the KEK `kek_id` of the provider `to` wrap the DEK of the volume with this header, which a KEK of `from` wraps now.
/// At every instant either the old token or the new one is the valid one. No data moves, and who uses the volume
/// notices nothing.
pub fn rewrap(
    header: &mut Header,
    from: &dyn KeyProvider,
    to: &dyn KeyProvider,
    kek_id: &KekId,
) -> Result<(), VolumeError> {
    // AES-KWP tells that it is what was wrapped; the digest, that it is what the data has.
    let dek = unlock(header, from)?;
    let token = wrap(to, kek_id, &dek)?;
    Ok(header.replace_token(token)?)
}

/// The token with the DEK under a KEK.
fn wrap(provider: &dyn KeyProvider, kek_id: &KekId, dek: &Dek) -> Result<Token, VolumeError> {
    let kek = provider.fetch_kek(kek_id)?;
    let wrapped_dek = wrap::wrap(&kek, dek).map_err(ProviderError::Wrap)?;
    Ok(Token { provider: provider.name().clone(), kek_id: kek_id.clone(), wrapped_dek })
}

fn unwrap_token(header: &Header, provider: &dyn KeyProvider) -> Result<Dek, VolumeError> {
    let token = &header.token;
    provider.unwrap_dek(&token.kek_id, &token.wrapped_dek).map_err(|error| match error {
        ProviderError::Wrap(source) => VolumeError::Unwrap {
            backing: header.place.backing.clone(),
            kek_id: token.kek_id.clone(),
            provider: token.provider.clone(),
            source,
        },
        error => error.into(),
    })
}
