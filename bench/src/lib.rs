//! What the measurements of blkseal share. No part of it is shipped.
//!
//! | room | what it measures |
//! |---|---|
//! | `cipher_rates` | AES-256-XTS by blkseal's kernels and others (`ciphers`), beside `raw` AES, on buffers of `memory` |
//! | `datapath` | the targets in-process, without a kernel driver |
//! | `study` | the devices under a real kernel, with fio |
//! | `perf` | whether any of these became slower |

pub mod arguments;
#[cfg(feature = "ciphers")]
pub mod cipher_rates;
#[cfg(feature = "ciphers")]
pub mod ciphers;
pub mod datapath;
pub mod median;
pub mod memory;
#[cfg(feature = "ciphers")]
pub mod perf;
pub mod raw;
pub mod study;
