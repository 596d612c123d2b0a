//! Plans a study, starts what measures, keeps each result, shows how far it is, and writes the report.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::cells::{BackingKind, Cell, Line, Outcome, Place, Plan, Settings, Store, to_json};
use super::commands::Stop;
use super::host::{Around, Host};
use super::matrix::Preset;
use super::summary::{self, Summary};
use super::targets::{self, Check};
use super::{Result, StudyError, fio, no_pipe, report};

/// Everything a study found, for programs.
#[derive(Serialize)]
pub struct Study<'a> {
    /// What was asked.
    pub settings: &'a Settings,
    /// The machines that measured: one, unless it changed between runs.
    pub hosts: Vec<&'a Host>,
    /// What is left out, and why.
    pub missing: Vec<&'a str>,
    /// fio's job of each workload, by the workload's short name. Its devices are named DEVICE0 and so on.
    pub fio_jobs: BTreeMap<String, String>,
    /// Medians.
    pub summaries: Vec<Summary>,
    /// Ratios that are asked for.
    pub checks: Vec<Check>,
    /// Each measurement.
    pub cells: Vec<&'a Cell>,
}

impl<'a> Study<'a> {
    /// From every line so far.
    pub fn new(settings: &'a Settings, lines: &'a [Line]) -> Self {
        let (mut hosts, mut missing, mut cells) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines {
            match line {
                Line::Host(host) => hosts.push(&**host),
                Line::Missing(what) => missing.push(what.as_str()),
                Line::Cell(cell) => cells.push(&**cell),
            }
        }
        let summaries = summary::summarize(lines);
        let checks = targets::checks(&summaries);
        let fio_jobs = settings.preset.workloads().into_iter().map(|workload| {
            let devices: Vec<_> =
                (0..workload.volumes).map(|number| format!("DEVICE{number}").into()).collect();
            let job = fio::job_file(&workload, &devices, settings.area_mib, settings.seconds);
            (workload.to_string(), job)
        });
        Self { settings, hosts, missing, fio_jobs: fio_jobs.collect(), summaries, checks, cells }
    }
}

/// Runs what is left of the study in `out`, and writes its report. Returns how many cells failed.
pub fn run(settings: &Settings, out: &Path) -> Result<usize> {
    let stop = Stop::listen()?;
    let mut store = Store::open(out, settings)?;
    let tasks = store.remaining(settings.tasks());
    let all = settings.tasks().len();
    eprintln!("study: {} of {all} cells are still to be measured", tasks.len());
    let ended = if tasks.is_empty() { Ok(()) } else { collect(settings, tasks, &mut store, &stop) };
    let failed = write_reports(settings, &store)?;
    ended?;
    Ok(failed)
}

fn collect(
    settings: &Settings,
    tasks: Vec<super::cells::Task>,
    store: &mut Store,
    stop: &Stop,
) -> Result<()> {
    let mut progress = Progress::new(tasks.len());
    let mut child = start(settings, tasks, store)?;
    let output = child.stdout.take().ok_or_else(no_pipe)?;
    for line in BufReader::new(output).lines() {
        let text = line?;
        match serde_json::from_str(&text) {
            Ok(mut line) => {
                if let (Line::Host(host), Place::Vm(_)) = (&mut line, &settings.place) {
                    host.around = Some(Around::here());
                }
                progress.show(&line);
                store.add(line)?;
            }
            // What somebody else has to say in the guest.
            Err(_) => eprintln!("{text}"),
        }
    }
    progress.end();
    let status = child.wait()?;
    stop.check()?;
    if status.success() {
        return Ok(());
    }
    Err(StudyError::Program {
        program: "what measures".to_owned(),
        said: format!("it ended early, {status}"),
    })
}

/// Starts `study measure`, here or in the VM.
fn start(settings: &Settings, tasks: Vec<super::cells::Task>, store: &Store) -> Result<Child> {
    let plan_path = store.path("plan.json");
    let estimate = estimate(settings, tasks.len());
    let plan = Plan { settings: settings.clone(), tasks };
    fs::write(&plan_path, to_json(&plan)?).map_err(|error| StudyError::file(&plan_path, error))?;
    let myself = std::env::current_exe()?;
    let mut command = match &settings.place {
        Place::Native => {
            let mut command = Command::new(myself);
            command.arg("measure").arg(plan_path);
            command
        }
        Place::Vm(kernel) => in_vm(settings, kernel, &myself, &plan_path, estimate),
    };
    let name = format!("{command:?}");
    let failed = |error: std::io::Error| StudyError::Program { program: name, said: error.to_string() };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)
}

/// A guess before anything is known, to bound what hangs: opening, closing and starting fio take time besides.
fn estimate(settings: &Settings, tasks: usize) -> Duration {
    Duration::from_secs(u64::from(settings.seconds) + 5) * u32::try_from(tasks).unwrap_or(u32::MAX)
}

fn in_vm(settings: &Settings, kernel: &str, myself: &Path, plan: &Path, estimate: Duration) -> Command {
    let volumes = u32::from(settings.preset.volumes());
    let memory = if let BackingKind::Memory(mib) = settings.backing { mib * volumes * 5 / 4 } else { 0 };
    let mut command = Command::new("ci/vm");
    command.args(["run", "--kernel", kernel, "--memory", &(1536 + memory).to_string()]);
    command.args(["--timeout", &(300 + estimate.as_secs() * 2).to_string()]);
    let add = |path: &Path, place: &str| format!("{}:{place}", path.display());
    command.args(["--add", &add(myself, "/usr/bin/study"), "--add", &add(plan, "/study/plan.json")]);
    command.args(["--add", &add(&myself.with_file_name("blkseal"), "/usr/bin/blkseal")]);
    if let Some(bpftrace) = find_program("bpftrace") {
        command.args(["--add", &add(&bpftrace, "/usr/bin/bpftrace")]);
    }
    command.args(["--", "study", "measure", "/study/plan.json"]);
    command
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Writes study.json and report.html, and prints the tables. Returns how many cells failed.
pub fn write_reports(settings: &Settings, store: &Store) -> Result<usize> {
    let study = Study::new(settings, store.lines());
    let write = |name: &str, text: String| {
        let path = store.path(name);
        fs::write(&path, text).map_err(|error| StudyError::file(&path, error))
    };
    write("study.json", to_json(&study)?)?;
    write("report.html", report::page(&study))?;
    print!("{}", targets::tables(&study.summaries));
    for missing in &study.missing {
        println!("\nleft out: {missing}");
    }
    println!("\nreport: {}", store.path("report.html").display());
    Ok(study.summaries.iter().map(|summary| summary.failed.len()).sum())
}

/// The study that `out` holds.
pub fn report_again(out: &Path) -> Result<usize> {
    let path = out.join("settings.json");
    let text = fs::read_to_string(&path).map_err(|error| StudyError::file(&path, error))?;
    let settings = super::cells::from_json(&text, &path.display().to_string())?;
    write_reports(&settings, &Store::open(out, &settings)?)
}

/// How far it is: a bar on a terminal, a line a cell elsewhere.
struct Progress {
    bar: ProgressBar,
    total: usize,
    done: usize,
    start: Option<Instant>,
}

impl Progress {
    fn new(total: usize) -> Self {
        let bar = ProgressBar::new(total as u64);
        // The template is ours, and right.
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left  {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, total, done: 0, start: None }
    }

    fn show(&mut self, line: &Line) {
        let Line::Cell(cell) = line else {
            if let Line::Missing(what) = line {
                self.bar.suspend(|| eprintln!("study: left out: {what}"));
            }
            // Everything before the first task is no measure of the rest.
            self.start = Some(Instant::now());
            self.bar.reset_elapsed();
            return;
        };
        self.done += 1;
        self.bar.inc(1);
        self.bar.set_message(describe(cell));
        if !std::io::stderr().is_terminal() {
            eprintln!("[{}/{}] {}{}", self.done, self.total, describe(cell), self.left());
        }
    }

    fn left(&self) -> String {
        let Some(start) = self.start else { return String::new() };
        let each = start.elapsed().as_secs_f64() / self.done as f64;
        let seconds = (each * (self.total - self.done.min(self.total)) as f64).round();
        format!(", {}:{:02} left", (seconds / 60.0) as u64, seconds as u64 % 60)
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn describe(cell: &Cell) -> String {
    let task = &cell.task;
    let outcome = match &cell.outcome {
        Outcome::Measured(figures) => format!("{:.0} IOPS, p50 {:.0} µs", figures.iops, figures.latency.p50),
        Outcome::Traced(split) => format!("{} requests looked into", split.requests),
        Outcome::Failed(why) => format!("FAILED: {why}"),
    };
    format!("{} on {}: {outcome}", task.workload, task.device)
}

/// Seconds and rounds of a preset, unless others were asked for.
pub fn defaults(preset: Preset, rounds: Option<u32>, seconds: Option<u32>) -> (u32, u32) {
    (rounds.unwrap_or_else(|| preset.rounds()), seconds.unwrap_or_else(|| preset.seconds()))
}
