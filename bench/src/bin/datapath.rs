//! What the cipher costs in the data path, without a kernel driver: see `blkseal_bench::datapath`.
//!
//! Each line is one pattern, block size and depth. With `--qemu`, what QEMU's LUKS driver would do in the place of our
//! cipher. Exit status: 0, 64 for wrong usage, 74 if something could not be measured.

use std::error::Error;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use blkseal_bench::arguments::{self, EX_USAGE};
use blkseal_bench::datapath::{self, Qemu, Scratch, Settings, Workload};
use clap::Parser;
use ublk_targets::cipher::{CpuPath, SectorSize};

const EX_IOERR: u8 = 74;

/// Drive the targets in-process, and say what the cipher costs in the path
#[derive(Parser)]
struct Arguments {
    /// Where the file to work on is made, which has no name there. On tmpfs the file system costs least
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    dir: PathBuf,
    /// MiB of the file
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    size: u64,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Rounds that medians are taken of
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Bytes of a sector: 512 or 4096
    #[arg(long, default_value = "4096", value_parser = sector_size)]
    sector_size: SectorSize,
    /// How AES is computed; the fastest unless given
    #[arg(long)]
    cpu_path: Option<CpuPath>,
    /// Measure this instead of the usual ones, as in randread:64K:16; can be given several times. Patterns: read, write,
    /// rw, rw70 (70 reads among 100 requests), or rand before one of these
    #[arg(long, value_name = "PATTERN:BLOCK:DEPTH")]
    workload: Vec<Workload>,
    /// Only lines whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Also measure QEMU's LUKS driver (qemu-img and qemu-io must be there)
    #[arg(long)]
    qemu: bool,
}

fn seconds(text: &str) -> Result<f64, &'static str> {
    text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds)).ok_or("0.01 to 3600")
}

fn sector_size(text: &str) -> Result<SectorSize, &'static str> {
    text.parse::<u32>().ok().and_then(|bytes| bytes.try_into().ok()).ok_or("512 or 4096")
}

fn main() -> ExitCode {
    let arguments: Arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let failed = |error: &dyn Display, status: u8| {
        eprintln!("datapath: {error}");
        status.into()
    };
    match arguments.workloads().map(|workloads| arguments.measure(workloads)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => failed(&error, EX_IOERR),
        Err(error) => failed(&error, EX_USAGE),
    }
}

impl Arguments {
    fn measure(&self, workloads: Vec<Workload>) -> Result<(), Box<dyn Error>> {
        let &Self { sector_size, cpu_path, seconds, .. } = self;
        let settings = Settings { sector_size, cpu_path, rounds: self.rounds.into(), seconds };
        let dir = self.dir.display();
        let file = Scratch::create(&self.dir, self.size << 20).map_err(|error| format!("{dir}: {error}"))?;
        let qemu = if self.qemu { Some(Qemu::new(&self.dir, &file)?) } else { None };
        println!("requests a second; file of {} MiB in {dir}, sectors of {sector_size} bytes", self.size);
        print!("workload                     plain     crypt     cipher crypt/plain crypt/series efficiency");
        println!("{}", if qemu.is_some() { "      qemu crypt/qemu" } else { "" });
        workloads.into_iter().try_for_each(|workload| line(&file, workload, &settings, qemu.as_ref()))
    }

    fn workloads(&self) -> Result<Vec<Workload>, String> {
        let all = if self.workload.is_empty() { &Workload::ALL[..] } else { &self.workload };
        let chosen: Vec<_> =
            all.iter().copied().filter(|workload| workload.to_string().contains(&self.only)).collect();
        if chosen.is_empty() {
            Err(format!("no workload's name contains {:?}", self.only))
        } else {
            Ok(chosen)
        }
    }
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
