//! The ratios of this run.

use std::collections::BTreeMap;
use std::path::Path;

use ublk_targets::cipher::{CpuPath, SectorSize};

use super::Ratios;
use crate::cipher_rates::{self, Column, RawRates};
use crate::ciphers::{self, Error};
use crate::datapath::{self, Scratch, Settings, Workload};
use crate::memory::Temperature;

/// What a kernel's own work decides. Cold buffers measure the memory.
const COLUMNS: [Column; 3] =
    [(4 << 10, Temperature::Hot), (128 << 10, Temperature::Hot), (1 << 20, Temperature::Hot)];

/// Rounds of each column: a third of a second for each contestant.
const CIPHER_ROUNDS: usize = 80;

const DATAPATH: Settings =
    Settings { sector_size: SectorSize::S4096, cpu_path: None, rounds: 7, seconds: 0.3 };
const DATAPATH_BYTES: u64 = 256 << 20;

/// Measures every kernel that this CPU has, and the data path on the fastest one; `say` hears what comes next.
pub fn measure(say: impl Fn(&str)) -> Result<Ratios, Error> {
    let mut ratios = Ratios::new();
    for size in [SectorSize::S4096, SectorSize::S512] {
        say(&format!("cipher, sectors of {size} bytes"));
        add_cipher(size, &mut ratios)?;
    }
    say("data path, in-process on tmpfs");
    ratios.insert(format!("datapath {}", CpuPath::detect()), datapath_ratios()?);
    Ok(ratios)
}

/// The ratios of blkseal's kernels to raw AES.
fn add_cipher(size: SectorSize, ratios: &mut Ratios) -> Result<(), Error> {
    let paths = CpuPath::available();
    let mut contestants =
        paths.iter().map(|&path| ciphers::blkseal(size, path)).collect::<Result<Vec<_>, _>>()?;
    let mut raw = RawRates::default();
    for column in COLUMNS {
        let rates = cipher_rates::measure(&mut contestants, column, CIPHER_ROUNDS, &mut raw);
        for ((path, contestant), rates) in paths.iter().zip(&contestants).zip(rates) {
            let group = ratios.entry(format!("cipher {path}")).or_default();
            let raw = cipher_rates::raw_of(contestant, &raw);
            for (direction, rate) in ["encrypt", "decrypt"].into_iter().zip(rates) {
                group.insert(format!("{direction} {} KiB, sectors of {size}", column.0 >> 10), rate / raw);
            }
        }
    }
    Ok(())
}

/// The processor time of `plain` and the cipher beside that of `crypt`, in which both come together.
fn datapath_ratios() -> Result<BTreeMap<String, f64>, Error> {
    let file = Scratch::create(Path::new("/dev/shm"), DATAPATH_BYTES)?;
    let mut ratios = BTreeMap::new();
    // One request at a time measures how the kernel wakes its threads, which is neither ours nor steady.
    for workload in Workload::ALL.into_iter().filter(|workload| workload.depth > 1) {
        let outcome = datapath::measure(&file, workload, &DATAPATH, None)?;
        ratios.insert(workload.to_string(), outcome.efficiency());
    }
    Ok(ratios)
}
