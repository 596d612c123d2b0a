//! The control plane of blkseal. Rooms, from the top down; each names only those below it:
//!
//! `cli` -> `control` <- `daemon` -> `volume` -> `luks` -> `provider` -> [`ublk_targets`]
//!
//! `worker` is a process of its own, which the daemon starts: it names `control`, `luks` and [`ublk_targets`]. `failures` says what
//! the errors of the rooms are to a user.

/// For the helpers of `tests/kmip`, which tests in here use as well.
#[cfg(test)]
extern crate self as blkseal;

pub mod atomic_file;
pub mod capabilities;
pub mod cli;
pub mod control;
pub mod daemon;
mod failures;
pub mod holders;
pub mod identity;
pub mod logging;
pub mod luks;
pub mod name;
pub mod provider;
pub mod seccomp;
pub mod volume;
pub mod wiping_alloc;
pub mod worker;
