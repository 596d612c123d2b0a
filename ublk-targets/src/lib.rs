//! The data plane of blkseal: a ublk device is served by a target, sector by sector, on io_uring.
//!
//! Read the rooms from the top down; each names only those below it.
//!
//! | room | what it holds |
//! |---|---|
//! | [`device`] | the life of a ublk device: add, start, recover, stop, delete |
//! | [`queue`] | one thread and one ring a hardware queue; one task and one buffer a tag |
//! | [`target`] | what serves requests: `null`, `plain`, `crypt` |
//! | [`backing`] | full-length read, write, flush and discard of a device or file |
//! | [`stats`] | counters and latency histograms |
//! | [`request`] | a descriptor, parsed once into an operation over a checked range of sectors |
//! | [`buffer`] | a tag's buffer; types that keep plaintext and ciphertext apart |
//! | [`cipher`] | AES-256-XTS over a run of sectors |
//! | [`secret`] | the only home of key bytes: locked pages, wiped at the end |
//! | [`ring`] | the queue thread's io_uring: what it may be asked for, and a seam where tests put faults |
//!
//! Only `device`, `queue` and `ring` name libublk. This crate cannot reach the network, key providers, headers or the
//! command line.

pub mod backing;
pub mod buffer;
pub mod cipher;
pub mod device;
pub mod queue;
pub mod request;
pub mod ring;
pub mod secret;
pub mod stats;
pub mod target;
