//! The data plane of blkseal: a ublk device is served by a target, sector by sector, on io_uring.
//!
//! Read the rooms from the top down; each names only those below it.
//!
//! | room | what it holds |
//! |---|---|
//! | [`secret`] | the only home of key bytes: locked pages, wiped at the end |
//! | [`cipher`] | AES-256-XTS over a run of sectors |
//!
//! This crate cannot reach the network, key providers, headers or the command line.

pub mod cipher;
pub mod secret;
