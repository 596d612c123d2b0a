//! A host to test on: a daemon with directories of its own, images, and the tools that serve as oracles.

pub mod core;
pub mod disk;
pub mod host;
pub mod load;
pub mod rounds;
pub mod shell;

pub use disk::{Disk, Pattern};
pub use host::{Host, Volume, eventually, shares_queues};
pub use shell::{run, run_in};
