//! Drives the targets in-process against a file, with no kernel driver, and says what the cipher costs in the path.
//!
//! Each line is one pattern, block size and depth: `plain`, `crypt` and the cipher alone in interleaved rounds, so
//! that a machine whose speed drifts does so for all of them; medians, and ratios of medians. With `--qemu`, what QEMU's
//! LUKS driver would do in the place of our cipher.

use std::cell::Cell;
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use ublk_targets::backing::{Backing, BackingOptions};
use ublk_targets::cipher::{Cipher, CpuPath, SectorSize};
use ublk_targets::queue::inprocess::{Source, serve};
use ublk_targets::request::{Descriptor, LBA_BYTES};
use ublk_targets::secret::Dek;
use ublk_targets::target::{Crypt, Plain, Target};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

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

#[derive(Clone, Copy)]
struct Workload {
    write: bool,
    random: bool,
    block: u32,
    depth: u16,
}

const WORKLOADS: [Workload; 6] = [
    Workload { write: false, random: false, block: 128 << 10, depth: 8 },
    Workload { write: true, random: false, block: 128 << 10, depth: 8 },
    Workload { write: false, random: true, block: 4 << 10, depth: 32 },
    Workload { write: true, random: true, block: 4 << 10, depth: 32 },
    Workload { write: false, random: true, block: 4 << 10, depth: 1 },
    Workload { write: true, random: true, block: 4 << 10, depth: 1 },
];

impl Workload {
    fn name(&self) -> String {
        let (random, op) = (if self.random { "rand" } else { "" }, if self.write { "write" } else { "read" });
        format!("{random}{op} {}K depth {}", self.block >> 10, self.depth)
    }
}

/// Gives out requests until its time is over.
struct Load {
    workload: Workload,
    blocks: u64,
    end: Instant,
    served: Cell<u64>,
    state: Cell<u64>,
    failed: Cell<i32>,
}

impl Load {
    fn block(&self, served: u64) -> u64 {
        if !self.workload.random {
            return served % self.blocks;
        }
        // xorshift64: cheap next to a request.
        let mut state = self.state.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.state.set(state);
        state % self.blocks
    }
}

impl Source for Load {
    fn next(&self, _: u16, _: &mut [u8]) -> Option<Descriptor> {
        let served = self.served.get();
        if served.is_multiple_of(64) && Instant::now() >= self.end {
            return None;
        }
        self.served.set(served + 1);
        let units = self.workload.block / LBA_BYTES as u32;
        let first = self.block(served) * u64::from(units);
        Some(Descriptor { op_flags: u32::from(self.workload.write), count: units, first })
    }

    fn done(&self, _: u16, _: Descriptor, result: i32, _: &[u8]) {
        if result < 0 {
            self.failed.set(result);
        }
    }
}

/// Requests a second of `target` under `workload`.
fn measure<T: Target>(target: &T, workload: Workload, seconds: f64) -> Result<f64> {
    let blocks = target.shape().sectors * LBA_BYTES / u64::from(workload.block);
    let measured = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let start = Instant::now();
            let load = Load {
                workload,
                blocks,
                end: start + Duration::from_secs_f64(seconds),
                served: Cell::new(0),
                state: Cell::new(0x9e37_79b9_7f4a_7c15),
                failed: Cell::new(0),
            };
            serve(target, workload.depth, workload.block as usize, &load)?;
            match load.failed.get() {
                0 => Ok(load.served.get() as f64 / start.elapsed().as_secs_f64()),
                errno => Err(std::io::Error::from_raw_os_error(-errno)),
            }
        });
        run.join()
    });
    measured.map_err(|_| "a measuring thread panicked")?.map_err(Into::into)
}

/// Requests a second that the cipher alone could serve, over buffers as many as there are tags.
fn measure_cipher(cipher: &Cipher, workload: Workload, seconds: f64) -> f64 {
    let mut buffers = vec![vec![0u8; workload.block as usize]; usize::from(workload.depth)];
    let start = Instant::now();
    let mut served = 0u64;
    while start.elapsed().as_secs_f64() < seconds {
        for buffer in &mut buffers {
            let first = served * u64::from(workload.block) / LBA_BYTES;
            if workload.write {
                cipher.encrypt(first, buffer)
            } else {
                cipher.decrypt(first, buffer)
            }
            served += 1;
        }
    }
    served as f64 / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// QEMU's LUKS driver on a file of its own beside ours.
///
/// `qemu-img bench` cannot be given the secret that LUKS needs, so `qemu-io` runs the same requests in waves of the
/// depth: once through the LUKS driver and once without. What the driver adds to a request is the difference; put on
/// top of our own `plain`, it says what our data path would do with QEMU's cipher in it. That favours QEMU, whose own
/// path is left out.
struct Qemu {
    luks: PathBuf,
    raw: PathBuf,
}

const SECRET: &str = "secret,id=key,data=a-passphrase";

impl Qemu {
    fn new(beside: &Path, size: u64) -> Result<Self> {
        let (luks, raw) = (beside.with_extension("luks"), beside.with_extension("raw"));
        std::fs::copy(beside, &raw)?;
        let made = Command::new("qemu-img")
            .args(["create", "-q", "--object", SECRET, "-f", "luks", "-o", "key-secret=key,iter-time=10"])
            .args(["-o", "preallocation=full", &luks.display().to_string(), &size.to_string()])
            .status()?;
        if made.success() {
            Ok(Self { luks, raw })
        } else {
            Err("qemu-img could not create a LUKS image".into())
        }
    }

    /// Seconds that the driver adds to a request, with the way of I/O that serves LUKS fastest.
    fn seconds_added(&self, workload: Workload, size: u64) -> Result<f64> {
        let count = (512u64 << 20) / u64::from(workload.block).max(32 << 10);
        let script = self.script(workload, count, size);
        let mut best: Option<(f64, f64)> = None;
        for way in ["native", "threads", "io_uring"] {
            // A file system that has no I/O past the page cache refuses `native`.
            let Ok(luks) = self.run(&script, "driver=luks,key-secret=key", &self.luks, way) else { continue };
            let raw = self.run(&script, "driver=raw", &self.raw, way)?;
            if best.is_none_or(|(fastest, _)| luks < fastest) {
                best = Some((luks, raw));
            }
        }
        let (luks, raw) = best.ok_or("qemu-io does not run")?;
        Ok((luks - raw).max(0.0) / count as f64)
    }

    fn script(&self, workload: Workload, count: u64, size: u64) -> String {
        let op = if workload.write { "aio_write" } else { "aio_read" };
        let blocks = size / u64::from(workload.block);
        let mut script = String::new();
        for n in 0..count {
            let block =
                if workload.random { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % blocks } else { n % blocks };
            script += &format!("{op} -q {} {}\n", block * u64::from(workload.block), workload.block);
            if (n + 1).is_multiple_of(workload.depth.into()) {
                script += "aio_flush\n";
            }
        }
        script
    }

    fn run(&self, script: &str, driver: &str, image: &Path, way: &str) -> Result<f64> {
        let cache = if way == "native" { "cache.direct=on,file.cache.direct=on," } else { "" };
        let image = image.display();
        let options = format!("{driver},{cache}file.driver=file,file.aio={way},file.filename={image}");
        let start = Instant::now();
        let mut child = Command::new("qemu-io")
            .args(["--object", SECRET, "--image-opts", &options])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        child.stdin.take().ok_or("no pipe to qemu-io")?.write_all(script.as_bytes())?;
        if child.wait()?.success() { Ok(start.elapsed().as_secs_f64()) } else { Err("qemu-io failed".into()) }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        for file in [&self.luks, &self.raw] {
            // Nothing depends on the removal: the files are ours, and their place is a temporary one.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn line(
    arguments: &Arguments,
    sector_size: SectorSize,
    workload: Workload,
    qemu: Option<&Qemu>,
) -> Result<()> {
    let dek = Dek::generate()?;
    let cipher = || Cipher::new(&dek, sector_size, arguments.cpu_path);
    let backing = || {
        let options = BackingOptions { offset: 0, length: None, sector_size, read_only: false };
        Backing::open(&arguments.file, &options)
    };
    let plain_target = Plain::new(backing()?, sector_size, false, false);
    let crypt_target = Crypt::new(backing()?, cipher()?, false, false);
    let alone = cipher()?;
    let (mut plain, mut crypt, mut ciphers, mut others) = (vec![], vec![], vec![], vec![]);
    for _ in 0..arguments.rounds {
        plain.push(measure(&plain_target, workload, arguments.seconds)?);
        crypt.push(measure(&crypt_target, workload, arguments.seconds)?);
        ciphers.push(measure_cipher(&alone, workload, arguments.seconds / 4.0));
        if let Some(qemu) = qemu {
            others.push(qemu.seconds_added(workload, arguments.size)?);
        }
    }
    let (plain, crypt, alone) = (median(plain), median(crypt), median(ciphers));
    let series = 1.0 / (1.0 / plain + 1.0 / alone);
    print!(
        "{:<24} {:>9.0} {:>9.0} {:>10.0} {:>11.3} {:>12.3}",
        workload.name(),
        plain,
        crypt,
        alone,
        crypt / plain,
        crypt / series
    );
    if !others.is_empty() {
        let qemu = 1.0 / (1.0 / plain + median(others));
        print!(" {:>9.0} {:>10.2}", qemu, crypt / qemu);
    }
    println!();
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let sector_size = SectorSize::try_from(arguments.sector_size)?;
    std::fs::write(&arguments.file, vec![0x5a; arguments.size as usize])?;
    let qemu = if arguments.qemu { Some(Qemu::new(&arguments.file, arguments.size)?) } else { None };
    println!("requests a second; file {}, sectors of {sector_size} bytes", arguments.file.display());
    print!("workload                     plain     crypt     cipher crypt/plain crypt/series");
    println!("{}", if qemu.is_some() { "      qemu crypt/qemu" } else { "" });
    let outcome = WORKLOADS
        .into_iter()
        .filter(|workload| workload.name().contains(&arguments.only))
        .try_for_each(|workload| line(&arguments, sector_size, workload, qemu.as_ref()));
    std::fs::remove_file(&arguments.file)?;
    outcome
}
