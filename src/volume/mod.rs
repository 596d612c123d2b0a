//! The life of a volume: what it is on this host, where it is in its life, and what its DEK takes.
//!
//! | file | what it holds |
//! |---|---|
//! | `registry` | the volumes that this host knows, by name; kept in `volumes.toml` |
//! | `state` | Locked, Unlocked, Live, Quiesced |
//! | `keys` | a DEK made and wrapped, unwrapped and checked, or wrapped by another KEK |
//! | `users` | who uses a device, so that it is not stopped under them |

mod error;
mod keys;
mod registry;
mod state;
mod users;

#[cfg(test)]
mod tests;

pub use error::{Part, VolumeError};
pub use keys::{Unverified, adopt, create, rewrap, unlock, unwrap, wrapping_kek};
pub use registry::{Known, Registry};
pub use state::State;
pub use users::claim_unused;
