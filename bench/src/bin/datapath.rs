//! What the cipher costs in the data path, without a kernel driver: see `blkseal_bench::datapath`.
//!
//! Each line is one pattern, block size and depth. With `--qemu`, what QEMU's LUKS driver would do in the place of our
//! cipher.

use std::error::Error;
use std::path::PathBuf;

use blkseal_bench::datapath::{self, Qemu, Scratch, Settings, Workload};
use clap::Parser;
use ublk_targets::cipher::{CpuPath, SectorSize};

#[derive(Parser)]
struct Arguments {
    /// File to work on; it is created, and removed at the end. On tmpfs the file system costs least.
    #[arg(long, default_value = "/dev/shm/blkseal-datapath")]
    file: PathBuf,
    /// Bytes of the file.
    #[arg(long, default_value_t = 256 << 20)]
    size: u64,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds that medians are taken of.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Bytes of a sector: 512 or 4096.
    #[arg(long, default_value_t = 4096)]
    sector_size: u32,
    /// How AES is computed; the fastest unless given.
    #[arg(long)]
    cpu_path: Option<CpuPath>,
    /// Only lines whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Also measure QEMU's LUKS driver (qemu-img must be there).
    #[arg(long)]
    qemu: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let settings = Settings {
        sector_size: SectorSize::try_from(arguments.sector_size)?,
        cpu_path: arguments.cpu_path,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
    };
    let file = Scratch::create(&arguments.file, arguments.size)?;
    let qemu = if arguments.qemu { Some(Qemu::new(&arguments.file, arguments.size)?) } else { None };
    println!(
        "requests a second; file {}, sectors of {} bytes",
        arguments.file.display(),
        settings.sector_size
    );
    print!("workload                     plain     crypt     cipher crypt/plain crypt/series efficiency");
    println!("{}", if qemu.is_some() { "      qemu crypt/qemu" } else { "" });
    for workload in Workload::ALL {
        if workload.to_string().contains(&arguments.only) {
            line(&file, workload, &settings, qemu.as_ref())?;
        }
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
