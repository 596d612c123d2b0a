//! `blkseal`: encrypts the disks of a virtualization host.

use std::process::ExitCode;

fn main() -> ExitCode {
    blkseal::cli::run(std::env::args_os())
}
