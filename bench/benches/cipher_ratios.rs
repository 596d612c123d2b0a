//! The rates of all AES-256-XTS implementations at 128 KiB, as ratios to the raw AES rate of the same rounds.
//!
//! All take turns in short rounds, so that a busy machine slows each of them alike; the fastest round of each counts.

use std::time::{Duration, Instant};

use blkseal_bench::ciphers::{self, Contestant, Error};
use blkseal_bench::raw::Width;
use ublk_targets::cipher::SectorSize;

/// Bytes of a request.
const REQUEST: usize = 128 * 1024;

/// GB/s of `work`, which says how many bytes it has done, over at least `time`.
fn rate(time: Duration, mut work: impl FnMut() -> usize) -> f64 {
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < time {
        bytes += work();
    }
    bytes as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn main() -> Result<(), Error> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    let time = Duration::from_millis(4);
    for size in [SectorSize::S4096, SectorSize::S512] {
        let mut all = ciphers::all(size)?;
        let mut best = vec![[0f64; 2]; all.len()];
        let widths = [Width::Bits128, Width::Bits256, Width::Bits512];
        let mut raw = [0f64; 3];
        let mut data = vec![0u8; REQUEST + 4096];
        let at = data.as_ptr().align_offset(4096);
        let data = &mut data[at..][..REQUEST];
        for _ in 0..rounds {
            for (width, best) in widths.iter().zip(&mut raw) {
                if width.is_available() {
                    *best = best.max(rate(time, || width.run(REQUEST)));
                }
            }
            for (contestant, best) in all.iter_mut().zip(&mut best) {
                best[0] = best[0].max(rate(time, || run(contestant, true, data)));
                best[1] = best[1].max(rate(time, || run(contestant, false, data)));
            }
        }
        println!("sectors of {size}: raw 128/256/512 bits: {raw:.2?} GB/s");
        for (contestant, best) in all.iter().zip(&best) {
            let raw = contestant.width.map_or(0.0, |w| raw[widths.iter().position(|&x| x == w).unwrap_or(0)]);
            println!(
                "{:24} encrypt {:6.2} ({:.3})  decrypt {:6.2} ({:.3})",
                contestant.name,
                best[0],
                best[0] / raw,
                best[1],
                best[1] / raw
            );
        }
    }
    Ok(())
}

fn run(contestant: &mut Contestant, encrypt: bool, data: &mut [u8]) -> usize {
    match encrypt {
        true => contestant.encrypt(1 << 40, data),
        false => contestant.decrypt(1 << 40, data),
    }
    data.len()
}
