//! `blkseal`: encrypts the disks of a virtualization host.

use std::process::ExitCode;

use blkseal::wiping_alloc::WipingAllocator;

/// Libraries, TLS above all, free buffers that held keys without wiping them.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::new();

fn main() -> ExitCode {
    blkseal::cli::run(std::env::args_os())
}
