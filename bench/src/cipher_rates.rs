//! The rates of AES-256-XTS implementations beside raw AES, measured in turns.
//!
//! All take turns in short rounds, and the fastest round of each counts, so that other work on the machine, which only
//! ever slows, drops out of rates and ratios alike.

use std::time::{Duration, Instant};

use crate::ciphers::Contestant;
use crate::memory::{Requests, Temperature};
use crate::raw::Width;

/// How long each takes in each round.
const TURN: Duration = Duration::from_millis(2);

/// Bytes of a request, and whether its buffer is in the cache.
pub type Column = (usize, Temperature);

/// GB/s of raw AES by [`Width`], as far as this CPU has it.
pub type RawRates = [f64; 3];

/// Encryption's and decryption's rates of one implementation, in GB/s.
pub type Rates = [f64; 2];

/// All rounds of one column: the rates of each contestant, and `raw` raised to the best that was seen.
pub fn measure(
    contestants: &mut [Contestant],
    (bytes, temperature): Column,
    rounds: usize,
    raw: &mut RawRates,
) -> Vec<Rates> {
    let mut requests = Requests::new(temperature, bytes);
    let mut results = vec![[0f64; 2]; contestants.len()];
    for _ in 0..rounds {
        for (width, best) in Width::ALL.into_iter().zip(&mut *raw) {
            if width.is_available() {
                *best = best.max(rate(|| width.run(64 << 10)));
            }
        }
        for (contestant, [encrypt, decrypt]) in contestants.iter_mut().zip(&mut results) {
            let mut turn = |work: fn(&mut Contestant, u64, &mut [u8])| {
                rate(|| {
                    let request = requests.next();
                    work(contestant, 1 << 40, request);
                    request.len()
                })
            };
            *encrypt = encrypt.max(turn(Contestant::encrypt));
            *decrypt = decrypt.max(turn(Contestant::decrypt));
        }
    }
    results
}

/// The rate of raw AES of the width that `contestant` uses; not a number where that is not known.
pub fn raw_of(contestant: &Contestant, raw: &RawRates) -> f64 {
    contestant.width.map_or(f64::NAN, |width| raw[width as usize])
}

/// GB/s of `work`, which says how many bytes it has done.
fn rate(mut work: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < TURN {
        for _ in 0..4 {
            bytes += work();
        }
    }
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}
