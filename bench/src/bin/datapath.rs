//! What the cipher costs in the data path, without a kernel driver: see `blkseal_bench::datapath`.
//!
//! Each line is one pattern, block size and depth. With `--qemu`, what QEMU's LUKS driver would do in the place of our
//! cipher. Ends with 0, with 1 where it could not measure, with 2 where its arguments are wrong.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use blkseal_bench::datapath::{self, Qemu, Scratch, Settings, Workload};
use clap::Parser;
use ublk_targets::cipher::{CpuPath, SectorSize};

/// Measures the data path in-process, on a file: `plain`, `crypt` and the cipher alone, in requests a second.
#[derive(Parser)]
struct Arguments {
    /// File to work on, which must not exist: it is created, and removed at the end. On tmpfs the file system costs
    /// least.
    #[arg(long, default_value = "/dev/shm/blkseal-datapath")]
    file: PathBuf,
    /// Bytes of the file.
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1 << 20..=1 << 40))]
    size: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Rounds that medians are taken of.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Bytes of a sector: 512 or 4096.
    #[arg(long, default_value = "4096", value_parser = sector_size)]
    sector_size: SectorSize,
    /// How AES is computed; the fastest unless given.
    #[arg(long)]
    cpu_path: Option<CpuPath>,
    /// PATTERN:BLOCK:DEPTH, as randread:4K:32, in place of the usual six (repeatable). Patterns: read, write, rw, rw70
    /// (70 reads among 100), or rand before one of these.
    #[arg(long = "workload")]
    workloads: Vec<Workload>,
    /// Only lines whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Also measure QEMU's LUKS driver (qemu-img and qemu-io must be there).
    #[arg(long)]
    qemu: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "not 0.01 to 3600".into())
}

fn sector_size(text: &str) -> Result<SectorSize, String> {
    let bytes = text.parse::<u32>().map_err(|error| error.to_string())?;
    SectorSize::try_from(bytes).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("datapath: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let settings = Settings {
        sector_size: arguments.sector_size,
        cpu_path: arguments.cpu_path,
        rounds: arguments.rounds.into(),
        seconds: arguments.seconds,
    };
    let workloads =
        if arguments.workloads.is_empty() { Workload::USUAL.to_vec() } else { arguments.workloads.clone() };
    let file = Scratch::create(&arguments.file, arguments.size)?;
    let qemu = if arguments.qemu { Some(Qemu::new(&arguments.file, arguments.size)?) } else { None };
    println!(
        "requests a second; file {}, sectors of {} bytes",
        arguments.file.display(),
        settings.sector_size
    );
    print!("workload                     plain     crypt     cipher crypt/plain crypt/series efficiency");
    println!("{}", if qemu.is_some() { "      qemu crypt/qemu" } else { "" });
    for workload in workloads.into_iter().filter(|workload| workload.to_string().contains(&arguments.only)) {
        line(&file, workload, &settings, qemu.as_ref())?;
    }
    Ok(())
}

fn line(
    file: &Scratch,
    workload: Workload,
    settings: &Settings,
    qemu: Option<&Qemu>,
) -> Result<(), Box<dyn Error>> {
    let outcome = datapath::measure(file, workload, settings, qemu)?;
    let (plain, crypt, cipher) = (outcome.plain.rate, outcome.crypt.rate, outcome.cipher.rate);
    print!(
        "{workload:<24} {plain:>9.0} {crypt:>9.0} {cipher:>10.0} {:>11.3} {:>12.3} {:>10.3}",
        crypt / plain,
        crypt / outcome.series(),
        outcome.efficiency()
    );
    if let Some(qemu) = outcome.qemu {
        print!(" {qemu:>9.0} {:>10.2}", crypt / qemu);
    }
    println!();
    Ok(())
}
