//! Does tasks one after the other, as root on a kernel with ublk, and says each result on a line of standard output.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::cells::{Cell, Figures, Line, Outcome, Plan, Purpose, Settings, Task, from_json, to_json};
use super::commands::{self, Limit, Stop};
use super::devices::{Ground, Opened};
use super::host::Host;
use super::meters::{self, Cost, Cycles};
use super::{Result, StudyError, bpf, fio};

/// Does what the plan in `path` says.
pub fn measure(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).map_err(|error| StudyError::file(path, error))?;
    let plan: Plan = from_json(&text, &path.display().to_string())?;
    let stop = Stop::listen()?;
    find_programs()?;
    let ground = Ground::prepare(&plan.settings)?;
    say(&Line::Host(Box::new(Host::new("blkseal", ground.cpu_path.clone()))))?;
    let no_trace = bpf::missing();
    if let Some(missing) = &no_trace {
        say(&Line::Missing(missing.clone()))?;
    }
    let mut meter = Meter::open(&plan)?;
    for task in plan.tasks {
        if task.purpose == Purpose::Trace && no_trace.is_some() {
            continue;
        }
        stop.check()?;
        let outcome = meter.run(&ground, &task);
        // What the signal broke is no result.
        stop.check()?;
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(error.to_string()));
        say(&Line::Cell(Box::new(Cell { task, outcome })))?;
    }
    Ok(())
}

/// Without these each cell would fail by itself.
fn find_programs() -> Result<()> {
    for program in ["fio", "cryptsetup"] {
        let missing = |error| StudyError::Unavailable(format!("{program} does not run here: {error}"));
        commands::run(program, &["--version"]).map_err(missing)?;
    }
    Ok(())
}

fn say(line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", to_json(line)?)?;
    Ok(out.flush()?)
}

struct Meter {
    seconds: u32,
    area_mib: u64,
    cycles: Option<Cycles>,
    scratch: tempfile::TempDir,
}

impl Meter {
    fn open(plan: &Plan) -> Result<Self> {
        let cycles = match Cycles::open() {
            Ok(cycles) => Some(cycles),
            Err(error) => {
                say(&Line::Missing(format!("cycles a request: this processor counts none here ({error})")))?;
                None
            }
        };
        let Settings { seconds, area_mib, .. } = plan.settings;
        Ok(Self { seconds, area_mib, cycles, scratch: tempfile::tempdir()? })
    }

    fn run(&mut self, ground: &Ground, task: &Task) -> Result<Outcome> {
        let opened = ground.open(task.device, &task.workload)?;
        let outcome = match task.purpose {
            Purpose::Round(_) => self.measure(&opened, task).map(Outcome::Measured),
            Purpose::Trace => self.trace(ground, &opened, task).map(Outcome::Traced),
        };
        opened.close()?;
        outcome
    }

    fn measure(&mut self, opened: &Opened<'_>, task: &Task) -> Result<Figures> {
        let (found, cost) = self.load(opened, task)?;
        Ok(Figures {
            iops: found.iops,
            bytes_per_second: found.bytes_per_second,
            latency: found.latency,
            cpu_us_per_io: cost.map(|cost| cost.cpu_us_per_io),
            cycles_per_io: cost.and_then(|cost| cost.cycles_per_io),
        })
    }

    fn trace(&mut self, ground: &Ground, opened: &Opened<'_>, task: &Task) -> Result<bpf::Split> {
        let (above, below) = ground.traced_numbers(opened)?;
        let trace = bpf::Trace::start(above, below, self.limit())?;
        let (found, _) = self.load(opened, task)?;
        Ok(trace.finish()?.within(found.latency.mean))
    }

    /// For a program that measures: what it takes, and much more.
    fn limit(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds) + 120)
    }

    fn load(&mut self, opened: &Opened<'_>, task: &Task) -> Result<(fio::Found, Option<Cost>)> {
        let jobs = self.scratch.path().join("jobs.fio");
        let report = self.scratch.path().join("report.json");
        fs::write(&jobs, fio::job_file(&task.workload, &opened.paths, self.area_mib, self.seconds))?;
        let mut child = Command::new("fio")
            .args(["--output-format=json", "--output"])
            .arg(&report)
            .arg(&jobs)
            // It leaves files in its directory.
            .current_dir(self.scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let limit = Limit::new(&child, self.limit());
        let block = u64::from(task.workload.block_kib) << 10;
        let cost = meters::watch(&mut child, &opened.disks()?, self.seconds, block, &mut self.cycles);
        let ended = child.wait_with_output()?;
        drop(limit);
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            return Err(StudyError::Program { program: "fio".to_owned(), said });
        }
        Ok((fio::parse(&fs::read_to_string(&report)?)?, cost?))
    }
}
