//! How often a test of random moments goes round, and with which numbers, so that a failure can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Pattern;

/// The number that the environment variable `variable` has, or `usual`. Any other text is an error of who runs the tests.
pub fn rounds(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")),
        Err(_) => usual,
    }
}

/// Random numbers from BLKSEAL_SEED, or from the clock. The seed is printed, which a failed test shows.
pub fn chance() -> Pattern {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = rounds("BLKSEAL_SEED", clock());
    println!("BLKSEAL_SEED={seed}");
    Pattern::new(seed)
}
