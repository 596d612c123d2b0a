//! The life of a volume: what it is on this host, where it is in its life, and what its DEK takes.
//!
//! | file | what it holds |
//! |---|---|
//! | `known` | what this host knows of its volumes |
//! | `registry` | the same as it changes, kept in `volumes.toml` |
//! | `volumes_file` | that file |
//! | `stable` | names of disks that lead to the same disk after a restart |
//! | `state` | Locked, Unlocked, Live, Quiesced |
//! | `keys` | a DEK made and wrapped, unwrapped and checked, or wrapped by another KEK |
//! | `users` | who uses a device, so that it is not stopped under them |

mod error;
mod keys;
mod known;
mod registry;
mod stable;
mod state;
mod users;
mod volumes_file;

#[cfg(test)]
mod tests;

pub use error::{Part, VolumeError};
pub use keys::{Unverified, adopt, create, rewrap, unlock, unwrap, wrapping_kek};
pub use known::{Forgotten, Known, KnownVolumes};
pub use registry::Registry;
pub use stable::{is_block_device, stable_name};
pub use state::State;
pub use users::claim_unused;
