//! What users rely on, under a real kernel with ublk: run by `ci/test` inside `ci/vm`, as root of a guest that is
//! thrown away. Each test starts a daemon of its own and leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

/// As the tests in `tests/kmip`, which bring these helpers.
#[allow(dead_code, unused_imports, clippy::expect_used, reason = "those tests use more of it, and expect")]
#[path = "../kmip/support/mod.rs"]
mod kmip_support;

mod adopt;
mod bad_input;
mod churn;
mod durability;
mod equals_dm_crypt;
mod errors;
mod filesystems;
mod fio_verify;
mod in_use;
mod kills;
mod kmip;
mod lifecycle;
mod locked;
mod memory;
mod model;
mod rekey;
mod roles;
mod takeover;
mod udev;
