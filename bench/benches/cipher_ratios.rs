//! The rates of all AES-256-XTS implementations, and their ratios to raw AES in the same rounds, as Markdown.
//!
//! All take turns in short rounds, and the fastest round of each counts, so that other work on the machine, which
//! only ever slows, drops out of rates and ratios alike. `ROUNDS` in the environment sets how many (default 40).

use std::time::{Duration, Instant};

use blkseal_bench::ciphers::{self, Contestant, Error};
use blkseal_bench::memory::{Requests, Temperature};
use blkseal_bench::raw::Width;
use ublk_targets::cipher::SectorSize;

/// Bytes of a request, and whether its buffer is in the cache.
const COLUMNS: [(usize, Temperature); 6] = [
    (4 << 10, Temperature::Hot),
    (128 << 10, Temperature::Hot),
    (1 << 20, Temperature::Hot),
    (4 << 10, Temperature::Cold),
    (128 << 10, Temperature::Cold),
    (1 << 20, Temperature::Cold),
];

/// How long each takes in each round.
const TURN: Duration = Duration::from_millis(2);

fn main() -> Result<(), Error> {
    let rounds = match std::env::var("ROUNDS") {
        Ok(text) => text.parse()?,
        Err(_) => 40,
    };
    for size in [SectorSize::S4096, SectorSize::S512] {
        let mut contestants = ciphers::all(size)?;
        let mut results = Vec::new();
        let mut best_raw = [0.0; 3];
        for (bytes, temperature) in COLUMNS {
            eprintln!("sectors of {size}, {} KiB, {temperature:?}", bytes >> 10);
            let mut requests = Requests::new(temperature, bytes);
            results.push(column(&mut contestants, &mut requests, rounds, &mut best_raw));
        }
        println!("\nRaw AES-256 of 128, 256, 512 bits: {best_raw:.1?} GB/s.");
        for (direction, name) in ["encrypt", "decrypt"].into_iter().enumerate() {
            print_table(size, name, &contestants, best_raw, |column, row| results[column][row][direction]);
        }
    }
    Ok(())
}

/// All rounds of one column: for each contestant, the best rates of encryption and decryption.
fn column(
    contestants: &mut [Contestant],
    requests: &mut Requests,
    rounds: usize,
    best_raw: &mut [f64; 3],
) -> Vec<[f64; 2]> {
    let mut results = vec![[0f64; 2]; contestants.len()];
    for _ in 0..rounds {
        for (width, best) in Width::ALL.into_iter().zip(&mut *best_raw) {
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

fn print_table(
    size: SectorSize,
    direction: &str,
    contestants: &[Contestant],
    raw: [f64; 3],
    rate: impl Fn(usize, usize) -> f64,
) {
    print!("\n| {direction}, sectors of {size} |");
    for (bytes, temperature) in COLUMNS {
        print!(" {} KiB {temperature:?} |", bytes >> 10);
    }
    println!("\n|---|{}", "---|".repeat(COLUMNS.len()));
    for (row, contestant) in contestants.iter().enumerate() {
        let raw = contestant.width.map_or(f64::NAN, |width| raw[width as usize]);
        print!("| {} |", contestant.name);
        for column in 0..COLUMNS.len() {
            let rate = rate(column, row);
            print!(" {rate:.1} ({:.2}) |", rate / raw);
        }
        println!();
    }
}
