//! Holds the ratios of this run against the stored ones: what `ci/perf` runs.
//!
//! Exit status: 0 if nothing was lost, 1 if a kernel or the data path has lost more than a tenth of a ratio, 64 for wrong
//! usage, 69 if a ratio is not stored for this CPU, 74 if something could not be measured.

use std::path::PathBuf;
use std::process::ExitCode;

use blkseal_bench::arguments;
use blkseal_bench::ciphers::Error;
use blkseal_bench::median::median;
use blkseal_bench::perf::{self, Ratios, Stored, TOLERANCE, Verdict, this_cpu, unheld};
use clap::Parser;

const EX_LOST: u8 = 1;
const EX_UNAVAILABLE: u8 = 69;
const EX_IOERR: u8 = 74;

/// Runs before a loss is believed: a busy machine can spoil one.
const RUNS: usize = 3;

/// Compare the ratios of cipher kernels and data path to the stored ones
#[derive(Parser)]
struct Arguments {
    /// The file with the stored ratios
    #[arg(long, default_value = "bench/ratios.toml")]
    ratios: PathBuf,
    /// Store the ratios of this CPU, the medians of three runs, in place of those that are there
    #[arg(long)]
    record: bool,
}

fn main() -> ExitCode {
    let arguments: Arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    let outcome = if arguments.record { record(&arguments) } else { check(&arguments) };
    outcome.unwrap_or_else(|error| {
        eprintln!("perf: {error}");
        ExitCode::from(EX_IOERR)
    })
}

fn check(arguments: &Arguments) -> Result<ExitCode, Error> {
    let cpu = this_cpu()?;
    let stored = Stored::read(&arguments.ratios)?;
    let Some(stored) = stored.of(&cpu) else {
        return Ok(not_stored(&format!("{} has no ratios of this CPU ({cpu})", arguments.ratios.display())));
    };
    let mut runs = Vec::new();
    let (verdicts, unheld) = loop {
        runs.push(measure(runs.len() + 1)?);
        let now = perf::combined(&runs, best);
        let verdicts = Verdict::all(stored, &now);
        let lost = verdicts.iter().filter(|verdict| verdict.is_lost()).count();
        if lost == 0 || runs.len() == RUNS {
            break (verdicts, unheld(stored, &now));
        }
        eprintln!("perf: {lost} ratios are low; running again");
    };
    report(&cpu, &verdicts);
    match conclude(&verdicts) {
        held if unheld.is_empty() || held != ExitCode::SUCCESS => Ok(held),
        _ => Ok(not_stored(&format!(
            "{} does not hold for this CPU: {}",
            arguments.ratios.display(),
            unheld.join("; ")
        ))),
    }
}

fn not_stored(what: &str) -> ExitCode {
    eprintln!("perf: {what}");
    eprintln!("hint: build a commit that is known to be good, and run ci/perf --record there");
    EX_UNAVAILABLE.into()
}

fn record(arguments: &Arguments) -> Result<ExitCode, Error> {
    let cpu = this_cpu()?;
    let mut stored =
        if arguments.ratios.exists() { Stored::read(&arguments.ratios)? } else { Stored::default() };
    let runs = (1..=RUNS).map(measure).collect::<Result<Vec<_>, _>>()?;
    stored.replace(&cpu, perf::combined(&runs, median));
    stored.write(&arguments.ratios)?;
    println!("the ratios of {cpu} are in {}", arguments.ratios.display());
    Ok(ExitCode::SUCCESS)
}

/// What the machine does besides takes away from a ratio more often than it adds.
fn best(ratios: Vec<f64>) -> f64 {
    ratios.into_iter().fold(f64::NAN, f64::max)
}

fn measure(run: usize) -> Result<Ratios, Error> {
    perf::measure(|what| eprintln!("perf: run {run} of at most {RUNS}: {what}"))
}

fn report(cpu: &str, verdicts: &[Verdict]) {
    println!("{cpu}");
    println!("{:<18} {:<34} {:>6} {:>6} {:>8}", "", "", "stored", "now", "change");
    for verdict in verdicts {
        println!("{verdict}");
    }
}

fn conclude(verdicts: &[Verdict]) -> ExitCode {
    let mut losers: Vec<&str> =
        verdicts.iter().filter(|verdict| verdict.is_lost()).map(|verdict| verdict.group.as_str()).collect();
    losers.dedup();
    if losers.is_empty() {
        println!("perf: nothing has lost {:.0} %", TOLERANCE * 100.0);
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "perf: slower by more than {:.0} % in each of {RUNS} runs: {}",
        TOLERANCE * 100.0,
        losers.join(", ")
    );
    ExitCode::from(EX_LOST)
}
