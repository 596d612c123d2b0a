//! The rates of all AES-256-XTS implementations, and their ratios to raw AES in the same rounds, as Markdown.
//!
//! `ROUNDS` in the environment sets how many rounds there are (default 40).

use std::process::ExitCode;

use blkseal_bench::arguments::EX_USAGE;
use blkseal_bench::cipher_rates::{self, Column, RawRates};
use blkseal_bench::ciphers::{self, Contestant, Error};
use blkseal_bench::memory::Temperature;
use ublk_targets::cipher::SectorSize;

/// As sysexits(3) has it.
const EX_IOERR: u8 = 74;

const COLUMNS: [Column; 6] = [
    (4 << 10, Temperature::Hot),
    (128 << 10, Temperature::Hot),
    (1 << 20, Temperature::Hot),
    (4 << 10, Temperature::Cold),
    (128 << 10, Temperature::Cold),
    (1 << 20, Temperature::Cold),
];

fn main() -> ExitCode {
    let rounds = std::env::var("ROUNDS").unwrap_or_else(|_| "40".to_owned());
    let Some(rounds) = rounds.parse().ok().filter(|rounds| (1..=100_000).contains(rounds)) else {
        eprintln!("cipher_ratios: ROUNDS is {rounds:?}, but must be 1 to 100000");
        return EX_USAGE.into();
    };
    match tables(rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cipher_ratios: {error}");
            EX_IOERR.into()
        }
    }
}

fn tables(rounds: usize) -> Result<(), Error> {
    for size in [SectorSize::S4096, SectorSize::S512] {
        let mut contestants = ciphers::all(size)?;
        let mut results = Vec::new();
        let mut raw = RawRates::default();
        for column in COLUMNS {
            eprintln!("sectors of {size}, {} KiB, {:?}", column.0 >> 10, column.1);
            results.push(cipher_rates::measure(&mut contestants, column, rounds, &mut raw));
        }
        println!("\nRaw AES-256 of 128, 256, 512 bits: {raw:.1?} GB/s.");
        for (direction, name) in ["encrypt", "decrypt"].into_iter().enumerate() {
            print_table(size, name, &contestants, &raw, |column, row| results[column][row][direction]);
        }
    }
    Ok(())
}

fn print_table(
    size: SectorSize,
    direction: &str,
    contestants: &[Contestant],
    raw: &RawRates,
    rate: impl Fn(usize, usize) -> f64,
) {
    print!("\n| {direction}, sectors of {size} |");
    for (bytes, temperature) in COLUMNS {
        print!(" {} KiB {temperature:?} |", bytes >> 10);
    }
    println!("\n|---|{}", "---|".repeat(COLUMNS.len()));
    for (row, contestant) in contestants.iter().enumerate() {
        let raw = cipher_rates::raw_of(contestant, raw);
        print!("| {} |", contestant.name);
        for column in 0..COLUMNS.len() {
            let rate = rate(column, row);
            print!(" {rate:.1} ({:.2}) |", rate / raw);
        }
        println!();
    }
}
