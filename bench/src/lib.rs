//! What the measurements of blkseal share. No part of it is shipped.

pub mod ciphers;
pub mod memory;
pub mod raw;
