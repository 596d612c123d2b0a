//! Processor time, cycles and requests of the whole machine, while fio runs.
//!
//! The whole machine, because a request's work is spread: fio, blkseal's worker, kernel threads of dm-crypt and io_uring.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use perf_event::events::Hardware;
use perf_event::{Builder, Counter};

use super::fio::RAMP_SECONDS;

/// The kernel's unit of processor time in /proc/stat, as every architecture shows it to programs.
const TICK_US: f64 = 10_000.0;

/// The part of fio's run that is looked at: it must end before fio does.
const WINDOW: f64 = 0.85;

/// What a request cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Processor time, in microseconds a request.
    pub cpu_us_per_io: f64,
    /// Processor cycles a request, where they can be counted.
    pub cycles_per_io: Option<f64>,
}

/// Counters of cycles, one a processor.
pub struct Cycles(Vec<Counter>);

impl Cycles {
    /// Opens them. Fails where the processor counts none, as in most virtual machines.
    pub fn open() -> io::Result<Self> {
        let cpus = std::thread::available_parallelism()?.get();
        let open = |cpu| {
            let mut builder = Builder::new().kind(Hardware::CPU_CYCLES).any_pid().one_cpu(cpu);
            builder.include_kernel();
            let mut counter = builder.build()?;
            counter.enable()?;
            Ok(counter)
        };
        (0..cpus).map(open).collect::<io::Result<_>>().map(Self)
    }

    fn read(&mut self) -> io::Result<u64> {
        self.0.iter_mut().map(Counter::read).sum()
    }
}

struct Sample {
    busy_us: f64,
    sectors: u64,
    cycles: Option<u64>,
}

/// Watches fio until shortly before its end. `None` if it ended too soon, or nothing was done meanwhile.
///
/// `disks` are the block devices' names as /sys/block has them, which count requests by their sectors.
pub fn watch(
    fio: &mut Child,
    disks: &[String],
    seconds: u32,
    block_bytes: u64,
    cycles: &mut Option<Cycles>,
) -> io::Result<Option<Cost>> {
    let idle = sectors(disks)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while sectors(disks)? == idle {
        if fio.try_wait()?.is_some() || Instant::now() > deadline {
            return Ok(None);
        }
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_secs_f64(RAMP_SECONDS));
    let before = sample(disks, cycles)?;
    sleep(Duration::from_secs_f64(f64::from(seconds) * WINDOW));
    let after = sample(disks, cycles)?;
    let in_time = fio.try_wait()?.is_none();
    Ok(if in_time { cost(&before, &after, block_bytes) } else { None })
}

fn cost(before: &Sample, after: &Sample, block_bytes: u64) -> Option<Cost> {
    let requests = (after.sectors - before.sectors) as f64 * 512.0 / block_bytes as f64;
    if requests < 1.0 {
        return None;
    }
    let cycles = before.cycles.zip(after.cycles).map(|(before, after)| (after - before) as f64 / requests);
    Some(Cost { cpu_us_per_io: (after.busy_us - before.busy_us) / requests, cycles_per_io: cycles })
}

fn sample(disks: &[String], cycles: &mut Option<Cycles>) -> io::Result<Sample> {
    let stat = fs::read_to_string("/proc/stat")?;
    let busy_us = busy_ticks(&stat).ok_or(io::ErrorKind::InvalidData)? as f64 * TICK_US;
    let cycles = cycles.as_mut().map(Cycles::read).transpose()?;
    Ok(Sample { busy_us, sectors: sectors(disks)?, cycles })
}

/// user, nice, system, irq and softirq of all processors: neither idle, nor waiting, nor stolen, and guests are in user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().map(|&field| ticks.get(field)).sum()
}

fn sectors(disks: &[String]) -> io::Result<u64> {
    let of = |disk: &String| {
        let stat = fs::read_to_string(PathBuf::from("/sys/class/block").join(disk).join("stat"))?;
        disk_sectors(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    disks.iter().map(of).sum()
}

/// Sectors of 512 bytes read and written.
fn disk_sectors(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat.split_whitespace().map_while(|word| word.parse().ok()).collect();
    Some(fields.get(2)? + fields.get(6)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_has_no_idle_in_it() {
        let stat = "cpu  100 10 20 5000 700 3 4 50 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(137));
        assert_eq!(busy_ticks("cpu  1 2"), None);
    }

    #[test]
    fn sectors_are_counted_both_ways() {
        assert_eq!(disk_sectors("  10 0 80 5 20 0 160 9 0 4 14 0 0 0 0 0 0"), Some(240));
        assert_eq!(disk_sectors("10 0"), None);
    }

    #[test]
    fn cost_is_by_request() {
        let at = |busy_us, sectors, cycles| Sample { busy_us, sectors, cycles };
        let cost = cost(&at(0.0, 100, Some(0)), &at(5000.0, 8100, Some(70_000)), 4096).unwrap();
        assert_eq!(cost, Cost { cpu_us_per_io: 5.0, cycles_per_io: Some(70.0) });
        assert_eq!(super::cost(&at(0.0, 5, None), &at(9.0, 5, None), 4096), None);
    }
}
