//! `blkseal`: encrypts the disks of a Linux virtualization host.

fn main() {}
