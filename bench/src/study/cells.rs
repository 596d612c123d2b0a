//! Settings, tasks, results, and the files they are kept in.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bpf::Split;
use super::fio::Latency;
use super::host::Host;
use super::matrix::{DeviceKind, Preset, Workload};
use super::{Result, StudyError};

/// Where devices are measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the virtual machine of `ci/vm`, under a kernel of this series.
    Vm(String),
    /// On this machine.
    Native,
}

/// What the study works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackingKind {
    /// null_blk devices, each with this many MiB of memory.
    Memory(u32),
    /// A block device. What it holds is lost.
    Device(PathBuf),
}

/// What decides whether two runs belong to one study.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The matrix's name.
    pub preset: Preset,
    /// Where.
    pub place: Place,
    /// On what.
    pub backing: BackingKind,
    /// MiB at the beginning of each backing that are worked on, all of them written once before.
    pub area_mib: u64,
    /// How often each cell is measured.
    pub rounds: u32,
    /// Seconds of a measurement.
    pub seconds: u32,
    /// Bytes of a sector of every device.
    pub sector_size: u32,
    /// The commit of blkseal that was built, where it is known.
    pub commit: Option<String>,
}

/// Why a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// For its figures, in this round, counted from 1.
    Round(u32),
    /// To see where a request's time goes. Looking takes time itself, so its figures do not count.
    Trace,
}

/// One workload on one device, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Why.
    pub purpose: Purpose,
    /// The load.
    pub workload: Workload,
    /// What is loaded.
    pub device: DeviceKind,
}

/// What `measure` is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Of the study.
    pub settings: Settings,
    /// What is still to be done, in this order.
    pub tasks: Vec<Task>,
}

/// The figures of one measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Requests a second, over all volumes and jobs.
    pub iops: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// From handing in a request to its end.
    pub latency: Latency,
    /// Processor time of the whole machine, in microseconds a request.
    pub cpu_us_per_io: Option<f64>,
    /// Processor cycles of the whole machine a request.
    pub cycles_per_io: Option<f64>,
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It was looked into.
    Traced(Split),
    /// It failed, for this reason.
    Failed(String),
}

/// A finished task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// What was done.
    #[serde(flatten)]
    pub task: Task,
    /// What came of it.
    pub outcome: Outcome,
}

/// What `measure` says on a line of standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// The machine; said first.
    Host(Box<Host>),
    /// Something that is left out, and why.
    Missing(String),
    /// A finished task.
    Cell(Box<Cell>),
}

impl Settings {
    /// Every task of the study. In a round, devices take turns at each workload, so that a machine whose speed drifts
    /// does so for all; and a round later another one is first.
    pub fn tasks(&self) -> Vec<Task> {
        let (workloads, devices) = (self.preset.workloads(), self.devices());
        let mut tasks = Vec::new();
        for round in 1..=self.rounds {
            for &workload in &workloads {
                let mut turns = devices.clone();
                turns.rotate_left((round as usize - 1) % devices.len());
                tasks.extend(turns.into_iter().map(|device| Task {
                    purpose: Purpose::Round(round),
                    workload,
                    device,
                }));
            }
        }
        for &workload in workloads.iter().filter(|workload| is_traced(workload)) {
            tasks.extend(devices.iter().map(|&device| Task { purpose: Purpose::Trace, workload, device }));
        }
        tasks
    }

    fn devices(&self) -> Vec<DeviceKind> {
        self.preset.devices()
    }
}

/// One job on one volume is clear enough to be looked into, and shallow and deep queues differ.
fn is_traced(workload: &Workload) -> bool {
    workload.jobs == 1 && workload.volumes == 1 && workload.queues.is_none() && workload.depth != 8
}

/// The directory of a study: what was asked, and each line of results as soon as it is there.
pub struct Store {
    dir: PathBuf,
    lines: Vec<Line>,
    file: File,
}

impl Store {
    /// Opens `dir`, or makes it. Fails if it holds a study with other settings, or one that somebody else has open.
    pub fn open(dir: &Path, settings: &Settings) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| StudyError::file(dir, error))?;
        let path = dir.join("cells.jsonl");
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)
            .map_err(|error| StudyError::file(&path, error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                StudyError::Unavailable(format!("{} is in use: a study runs there", dir.display()))
            }
            TryLockError::Error(error) => StudyError::file(&path, error),
        })?;
        keep_settings(&dir.join("settings.json"), settings)?;
        let lines = read_lines(&path, &mut file)?;
        Ok(Self { dir: dir.to_owned(), lines, file })
    }

    /// Where a file of the study lies.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Keeps a line; it is on the disk when this returns.
    pub fn add(&mut self, line: Line) -> Result<()> {
        // What a machine said already in an earlier run of this study.
        if !matches!(line, Line::Cell(_)) && self.lines.contains(&line) {
            return Ok(());
        }
        let mut text = to_json(&line)?;
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.lines.push(line);
        Ok(())
    }

    /// Every line so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The tasks of `all` that are still to be done; one that failed is tried again.
    pub fn remaining(&self, all: Vec<Task>) -> Vec<Task> {
        let done: HashSet<_> = self
            .lines
            .iter()
            .filter_map(|line| match line {
                Line::Cell(cell) if !matches!(cell.outcome, Outcome::Failed(_)) => Some(key(&cell.task)),
                _ => None,
            })
            .collect();
        all.into_iter().filter(|task| !done.contains(&key(task))).collect()
    }
}

fn key(task: &Task) -> (Purpose, String, &'static str) {
    (task.purpose, task.workload.to_string(), task.device.name())
}

fn keep_settings(path: &Path, settings: &Settings) -> Result<()> {
    if path.exists() {
        let text = fs::read_to_string(path).map_err(|error| StudyError::file(path, error))?;
        if from_json::<Settings>(&text, &path.display().to_string())? != *settings {
            let message = format!("{} holds a study with other settings: give another --out", path.display());
            return Err(StudyError::Usage(message));
        }
        return Ok(());
    }
    fs::write(path, to_json(settings)?).map_err(|error| StudyError::file(path, error))
}

/// The lines of the file. A last one without its end was being written when the study ended: it is cut off.
fn read_lines(path: &Path, file: &mut File) -> Result<Vec<Line>> {
    let mut reader = BufReader::new(&*file);
    let (mut lines, mut whole, mut text) = (Vec::new(), 0, String::new());
    while reader.read_line(&mut text).map_err(|error| StudyError::file(path, error))? > 0 {
        if !text.ends_with('\n') {
            break;
        }
        lines.push(from_json(&text, &path.display().to_string())?);
        whole += text.len() as u64;
        text.clear();
    }
    file.set_len(whole).map_err(|error| StudyError::file(path, error))?;
    Ok(lines)
}

/// A value as JSON on one line.
pub fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|source| StudyError::Json { what: "a result".to_owned(), source })
}

/// A value from the JSON that `what` said.
pub fn from_json<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|source| StudyError::Json { what: what.to_owned(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn settings() -> Settings {
        Settings {
            preset: Preset::Quick,
            place: Place::Native,
            backing: BackingKind::Memory(64),
            area_mib: 64,
            rounds: 2,
            seconds: 1,
            sector_size: 4096,
            commit: None,
        }
    }

    fn failed(task: &Task) -> Line {
        Line::Cell(Box::new(Cell { task: task.clone(), outcome: Outcome::Failed("no".to_owned()) }))
    }

    fn traced(task: &Task) -> Line {
        Line::Cell(Box::new(Cell { task: task.clone(), outcome: Outcome::Traced(Split::default()) }))
    }

    #[test]
    fn devices_take_turns_within_a_round_and_another_is_first_in_the_next() {
        let tasks = settings().tasks();
        let first_of = |round| tasks.iter().find(|task| task.purpose == Purpose::Round(round)).unwrap();
        assert_eq!(tasks[0].workload, tasks[5].workload);
        assert_ne!(first_of(1).device, first_of(2).device);
        let rounds = tasks.iter().filter(|task| task.purpose != Purpose::Trace).count();
        assert_eq!(rounds, 2 * 2 * 6);
    }

    #[test]
    fn a_study_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = settings().tasks();
        let mut store = Store::open(dir.path(), &settings()).unwrap();
        store.add(traced(&tasks[0])).unwrap();
        store.add(failed(&tasks[1])).unwrap();
        drop(store);
        let store = Store::open(dir.path(), &settings()).unwrap();
        assert_eq!(store.lines().len(), 2);
        assert_eq!(store.remaining(tasks.clone()), tasks[1..]);
    }

    #[test]
    fn half_a_line_is_cut_off_and_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let tasks = settings().tasks();
        Store::open(dir.path(), &settings()).unwrap().add(traced(&tasks[0])).unwrap();
        let mut file = OpenOptions::new().append(true).open(dir.path().join("cells.jsonl")).unwrap();
        file.write_all(b"{\"cell\":{\"purp").unwrap();
        let mut store = Store::open(dir.path(), &settings()).unwrap();
        assert_eq!(store.lines().len(), 1);
        store.add(traced(&tasks[1])).unwrap();
        drop(store);
        assert_eq!(Store::open(dir.path(), &settings()).unwrap().lines().len(), 2);
    }

    #[test]
    fn another_study_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        Store::open(dir.path(), &settings()).unwrap();
        let other = Settings { seconds: 9, ..settings() };
        assert!(matches!(Store::open(dir.path(), &other), Err(StudyError::Usage(_))));
    }

    #[test]
    fn two_studies_do_not_write_to_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path(), &settings()).unwrap();
        assert!(matches!(Store::open(dir.path(), &settings()), Err(StudyError::Unavailable(_))));
        drop(first);
        Store::open(dir.path(), &settings()).unwrap();
    }

    #[test]
    fn what_a_machine_says_twice_is_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), &settings()).unwrap();
        for _ in 0..2 {
            store.add(Line::Missing("no bpftrace".to_owned())).unwrap();
        }
        assert_eq!(store.lines().len(), 1);
    }
}
