//! What encryption costs under a real kernel: see `blkseal_bench::study`. `bench/study` builds and starts it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use blkseal_bench::arguments;
use blkseal_bench::study::backing::Losable;
use blkseal_bench::study::cells::{BackingKind, Place, Settings};
use blkseal_bench::study::matrix::Preset;
use blkseal_bench::study::{Result, StudyError, backing, measure, run};
use clap::{Args, Parser, Subcommand};

/// Some cells failed.
const EX_FAILED_CELLS: u8 = 1;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a study, or what is left of it
    Run(Run),
    /// Do the tasks of a plan, as root on a kernel with ublk; 'run' starts this
    Measure {
        /// The plan
        plan: PathBuf,
    },
    /// Write the report again from what a directory holds
    Report {
        /// The study's directory
        out: PathBuf,
    },
}

#[derive(Args)]
struct Run {
    /// Which matrix
    #[arg(long, value_enum)]
    preset: Preset,
    /// In the VM under a kernel of this series; natively unless given
    #[arg(long, value_name = "SERIES")]
    vm: Option<String>,
    /// Natively: a block device to work on; WHAT IT HOLDS IS LOST. Memory of null_blk unless given
    #[arg(long, value_name = "DEVICE", conflicts_with = "vm")]
    backing: Option<PathBuf>,
    /// Work on a device that holds data
    #[arg(long, requires = "backing")]
    force: bool,
    /// MiB of memory of each null_blk device
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=65536), conflicts_with = "backing")]
    memory: u32,
    /// The study's directory: results, study.json, report.html
    #[arg(long)]
    out: PathBuf,
    /// How often each cell is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each measurement
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: Option<u32>,
    /// Bytes of a sector
    #[arg(long, default_value_t = 4096, value_parser = sector_size)]
    sector_size: u32,
    /// The commit that was built, for the report
    #[arg(long)]
    commit: Option<String>,
}

fn sector_size(text: &str) -> std::result::Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("512 or 4096".to_owned()),
    }
}

fn main() -> ExitCode {
    let Arguments { verb } = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(status) => return status,
    };
    match start(verb) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("study: {failed} cells failed; the same command tries them again");
            ExitCode::from(EX_FAILED_CELLS)
        }
        Err(error) => {
            eprintln!("study: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(verb: Verb) -> Result<usize> {
    match verb {
        Verb::Run(arguments) => arguments.run(),
        Verb::Measure { plan } => measure::measure(&plan).map(|()| 0),
        Verb::Report { out } => run::report_again(&out),
    }
}

impl Run {
    fn run(self) -> Result<usize> {
        let (rounds, seconds) = run::defaults(self.preset, self.rounds, self.seconds);
        let place = match self.vm {
            Some(kernel) => Place::Vm(kernel),
            None => Place::Native,
        };
        if place == Place::Native && !nix::unistd::geteuid().is_root() {
            let message = "measuring natively takes root: use sudo, or --vm".to_owned();
            return Err(StudyError::Unavailable(message));
        }
        let (backing, area_mib) = match self.backing {
            Some(_) if self.preset.volumes() > 1 => {
                let message =
                    "this preset loads several volumes, and one device was given: leave --backing away";
                return Err(StudyError::Usage(message.to_owned()));
            }
            Some(device) => {
                backing::check(&device, losable(self.force, &self.out))?;
                let area = backing::area_mib(&device)?;
                (BackingKind::Device(device), area)
            }
            None => (BackingKind::Memory(self.memory), self.memory.into()),
        };
        let (preset, sector_size, commit) = (self.preset, self.sector_size, self.commit);
        let settings = Settings { preset, place, backing, area_mib, rounds, seconds, sector_size, commit };
        run::run(&settings, &self.out)
    }
}

/// A study that goes on finds on its device what it wrote there itself.
fn losable(force: bool, out: &Path) -> Losable {
    match (force, out.join("cells.jsonl").exists()) {
        (true, _) => Losable::Anything,
        (false, true) => Losable::OurData,
        (false, false) => Losable::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(arguments: &str) -> bool {
        Arguments::try_parse_from(arguments.split(' ')).is_ok()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(accepts("study run --preset quick --out d --vm 7"));
        assert!(accepts("study run --preset full --out d --backing /dev/sdx --force --sector-size 512"));
        for wrong in
            ["--rounds 0", "--seconds 0", "--sector-size 1024", "--force", "--memory 1", "--nonsense"]
        {
            assert!(!accepts(&format!("study run --preset quick --out d {wrong}")), "{wrong}");
        }
        assert!(!accepts("study run --preset quick --out d --vm 7 --backing /dev/sdx"));
        assert!(!accepts("study run --preset fast --out d"));
        assert!(!accepts("study run --preset quick"));
    }

    #[test]
    fn only_a_study_that_has_begun_may_lose_what_it_wrote() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(losable(false, dir.path()), Losable::Nothing);
        std::fs::write(dir.path().join("cells.jsonl"), "").unwrap();
        assert_eq!(losable(false, dir.path()), Losable::OurData);
        assert_eq!(losable(true, dir.path()), Losable::Anything);
    }
}
