//! The KMIP provider and a real key server. `ci/test native` sets the server up and runs these; by hand:
//!
//!     BLKSEAL_PYKMIP=$(ci/pykmip) cargo test --test kmip

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests, outside the functions that clippy knows as tests"
)]

use blkseal::wiping_alloc::WipingAllocator;

/// As in the program, so that the memory of these tests can be searched as the daemon's could be.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

mod disagree;
mod failover;
mod keys;
mod life;
mod memory;
mod orphans;
mod protocol;
mod proxy;
mod replicas;
mod support;
mod trust;
mod types;
mod unwell;
