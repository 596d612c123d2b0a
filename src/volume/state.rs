//! Where a volume is in its life.

use crate::luks::Token;
use crate::provider::{Availability, ProviderError, Registry};

/// Where a volume is in its life.
///
/// ```text
///         KEK to be had            open            worker dies
///  Locked -------------> Unlocked -----> Live <----------------> Quiesced
///    |    <-------------          <-----      worker replaced        |
///    |      and not          ^    close                              |
///    |                       +------------------------- close -------+
///    +---- open; KEK to be had ----------> Live
/// ```
///
/// To open a locked volume leaves it locked, and wanted: it is live once its KEK is to be had, unless it is closed before.
/// A provider that locks, and servers that end, change nothing for a volume that is live; what is quiesced then stays so
/// until the KEK is to be had again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No device, and the KEK is not to be had now, for this reason.
    Locked(String),
    /// No device, and the KEK is at hand.
    Unlocked,
    /// A worker serves the device.
    Live,
    /// The device is there and keeps its requests waiting, for no worker serves it, for this reason.
    Quiesced(String),
}

impl State {
    /// The state of a volume that has no device and this token in its header.
    pub fn without_device(token: &Token, providers: &Registry) -> Self {
        let availability =
            providers.get(&token.provider).map(|provider| match provider.holds_kek(&token.kek_id) {
                true => Availability::Ready,
                false => provider.availability(),
            });
        match availability {
            Ok(Availability::Ready) => Self::Unlocked,
            Ok(Availability::Locked) => {
                Self::Locked(ProviderError::Locked(token.provider.clone()).to_string())
            }
            Ok(Availability::Unavailable) => {
                Self::Locked(format!("key provider {} cannot be reached", token.provider))
            }
            Err(error) => Self::Locked(error.to_string()),
        }
    }

    /// Whether there is a device.
    pub fn has_device(&self) -> bool {
        matches!(self, Self::Live | Self::Quiesced(_))
    }
}
