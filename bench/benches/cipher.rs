//! Each AES-256-XTS implementation by itself, under criterion: `cargo bench -p blkseal-bench --bench cipher -- FILTER`.
//!
//! For ratios on a busy machine see `cipher_ratios`, where all take turns.

use blkseal_bench::ciphers::{self, Error};
use blkseal_bench::memory::{Requests, Temperature};
use blkseal_bench::raw::Width;
use criterion::{Criterion, Throughput};
use ublk_targets::cipher::SectorSize;

fn main() -> Result<(), Error> {
    let mut criterion = Criterion::default().configure_from_args();
    raw(&mut criterion);
    for size in [SectorSize::S4096, SectorSize::S512] {
        for temperature in [Temperature::Hot, Temperature::Cold] {
            for bytes in [4 << 10, 128 << 10, 1 << 20] {
                xts(&mut criterion, size, temperature, bytes)?;
            }
        }
    }
    criterion.final_summary();
    Ok(())
}

fn raw(criterion: &mut Criterion) {
    const BYTES: usize = 128 << 10;
    let mut group = criterion.benchmark_group("raw AES-256");
    for width in Width::ALL.into_iter().filter(|width| width.is_available()) {
        group.throughput(Throughput::BytesDecimal(width.run(BYTES) as u64));
        group.bench_function(format!("{width:?}"), |bencher| bencher.iter(|| width.run(BYTES)));
    }
    group.finish();
}

fn xts(
    criterion: &mut Criterion,
    size: SectorSize,
    temperature: Temperature,
    bytes: usize,
) -> Result<(), Error> {
    let mut requests = Requests::new(temperature, bytes);
    let mut group =
        criterion.benchmark_group(format!("sectors of {size}, {} KiB, {temperature:?}", bytes >> 10));
    group.throughput(Throughput::BytesDecimal(bytes as u64));
    for mut contestant in ciphers::all(size)? {
        let name = contestant.name.clone();
        group.bench_function(format!("{name} encrypt"), |bencher| {
            bencher.iter(|| contestant.encrypt(1 << 40, requests.next()));
        });
        group.bench_function(format!("{name} decrypt"), |bencher| {
            bencher.iter(|| contestant.decrypt(1 << 40, requests.next()));
        });
    }
    group.finish();
    Ok(())
}
