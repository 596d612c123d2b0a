//! `blkseal rekey`: another key for volumes.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::Output;
use super::session::{Daemon, Session};
use super::values::{KekTarget, VolumeArgument};
use super::{help, interrupt, report};
use crate::control::{self, Failure, FailureKind, Name, Rekeyed};

/// Have another KEK wrap the keys of volumes
///
/// No data moves: the volume's own key stays, and is wrapped by the newest active KEK of its provider, or by the one
/// that --to names. Volumes may be open; their users notice nothing. At every instant either the old wrapped key or the
/// new one is in force, so that neither a crash nor Ctrl-C does harm, and the same command goes on where it was
/// stopped: volumes that have the KEK already are passed over.
///
/// With --json, a line of JSON for each volume as it is done, and a last one with the totals.
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::REKEY))]
#[command(group = ArgGroup::new("which").required(true).args(["volumes", "all"]))]
pub struct Rekey {
    /// Replace the key that wraps the volume's key
    #[arg(long, required = true)]
    kek: bool,
    /// The provider to use from now on, and which of its KEKs [default: the newest active one]
    #[arg(long, value_name = "PROVIDER[/KEK]")]
    to: Option<KekTarget>,
    /// Every volume that this host knows
    #[arg(long)]
    all: bool,
    /// Their names, their UUIDs, or the paths of their backings (with a '/')
    #[arg(value_name = "VOLUME")]
    volumes: Vec<VolumeArgument>,
}

/// A volume to be rekeyed.
struct Task {
    name: Name,
    /// The provider that its KEK is to come from.
    provider: Name,
}

/// What became of a volume, in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    volume: &'a Name,
    result: &'static str,
    provider: Option<&'a str>,
    kek_id: Option<&'a str>,
    old_provider: Option<&'a str>,
    old_kek_id: Option<&'a str>,
    error: Option<report::Error<'a>>,
}

/// The last line.
#[derive(Debug, Default, Serialize)]
struct Totals {
    volumes: usize,
    rewrapped: usize,
    unchanged: usize,
    failed: usize,
    stopped: bool,
}

impl Rekey {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        let tasks = self.tasks(&mut daemon)?;
        interrupt::listen().map_err(|error| Failure::from_error(FailureKind::System, &error))?;
        let run =
            Run { output: session.output, bar: bar(tasks.len(), session.output), totals: Totals::default() };
        run.rekey(&mut daemon, tasks, self.to.and_then(|to| to.kek_id))
    }

    /// The volumes, by name. One that is not there is told of before anything is done.
    fn tasks(&self, daemon: &mut Daemon) -> Result<Vec<Task>, Failure> {
        let volumes = if self.all {
            let volumes = daemon.call_slow("listing the volumes", &control::List {}, &[])?.volumes;
            volumes.into_iter().filter(|volume| volume.provider.is_some()).collect()
        } else {
            let status = |volume: &VolumeArgument| {
                let answer = daemon.call(&control::Status { volume: volume.text() });
                answer.map_err(|failure| volume.explain(failure))
            };
            self.volumes.iter().map(status).collect::<Result<Vec<_>, _>>()?
        };
        let task = |volume: control::Volume| {
            let provider = match (&self.to, volume.provider) {
                (Some(to), _) => to.provider.clone(),
                (None, Some(provider)) => provider.parse().map_err(|error: control::NameError| {
                    Failure::from_error(FailureKind::Protocol, &error)
                })?,
                (None, None) => {
                    let message = format!("{} is not encrypted and has no KEK", volume.name);
                    return Err(Failure::new(FailureKind::InvalidArgument, message));
                }
            };
            Ok(Task { name: volume.name, provider })
        };
        volumes.into_iter().map(task).collect()
    }
}

/// A run over volumes.
struct Run {
    output: Output,
    bar: ProgressBar,
    totals: Totals,
}

impl Run {
    /// Rekeys each volume, to `kek_id`, or else to the KEK of its provider that is the newest when the run begins.
    fn rekey(mut self, daemon: &mut Daemon, tasks: Vec<Task>, kek_id: Option<String>) -> Result<(), Failure> {
        let mut keks: BTreeMap<Name, String> = BTreeMap::new();
        let mut first_failure = None;
        self.totals.volumes = tasks.len();
        for Task { name, provider } in tasks {
            if interrupt::asked().is_some() {
                self.totals.stopped = true;
                break;
            }
            let kek_id = kek_id.clone().or_else(|| keks.get(&provider).cloned());
            let call = control::Rekey { volume: name.to_string(), provider: Some(provider.clone()), kek_id };
            let result = daemon.call(&call);
            self.tell(&name, &result)?;
            match result {
                Ok(rekeyed) => drop(keks.insert(provider, rekeyed.kek_id)),
                Err(failure) if failure.kind == FailureKind::NoDaemon => return Err(failure),
                Err(failure) => drop(first_failure.get_or_insert(failure)),
            }
        }
        self.finish(first_failure)
    }

    /// Counts what became of a volume, and says so where something did.
    fn tell(&mut self, name: &Name, result: &Result<Rekeyed, Failure>) -> Result<(), Failure> {
        let (word, count) = match result {
            Ok(rekeyed) if rekeyed.rewrapped => ("rewrapped", &mut self.totals.rewrapped),
            Ok(_) => ("unchanged", &mut self.totals.unchanged),
            Err(_) => ("failed", &mut self.totals.failed),
        };
        *count += 1;
        self.bar.inc(1);
        let (rekeyed, single) = (result.as_ref().ok(), self.totals.volumes == 1);
        let line = Line {
            volume: name,
            result: word,
            provider: rekeyed.map(|rekeyed| &*rekeyed.provider),
            kek_id: rekeyed.map(|rekeyed| &*rekeyed.kek_id),
            old_provider: rekeyed.map(|rekeyed| &*rekeyed.old_provider),
            old_kek_id: rekeyed.map(|rekeyed| &*rekeyed.old_kek_id),
            error: result.as_ref().err().map(report::Error::of),
        };
        let text = |_: &Line<'_>| match rekeyed {
            Some(rekeyed) if rekeyed.rewrapped => {
                format!("{name}: its key is wrapped by KEK {} of {}\n", rekeyed.kek_id, rekeyed.provider)
            }
            Some(rekeyed) if single => {
                format!("{name}: KEK {} of {} wraps its key already\n", rekeyed.kek_id, rekeyed.provider)
            }
            _ => String::new(),
        };
        self.bar.suspend(|| {
            if let Some(failure) = result.as_ref().err().filter(|_| !single && !self.output.is_json()) {
                log::warn!("{failure}");
            }
            self.output.answer(&line, text)
        })
    }

    fn finish(self, first_failure: Option<Failure>) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let single = self.totals.volumes == 1;
        self.output.answer(&self.totals, |totals| if single { String::new() } else { summary(totals) })?;
        if let Some(signal) = interrupt::asked().filter(|_| self.totals.stopped) {
            interrupt::end_by(signal).map_err(|error| Failure::from_error(FailureKind::System, &error))?;
        }
        match first_failure {
            None => Ok(()),
            Some(failure) if single => Err(failure),
            Some(failure) => {
                let message = format!(
                    "{} of {} volumes keep their KEK: {failure}",
                    self.totals.failed, self.totals.volumes
                );
                Err(Failure { message, ..failure })
            }
        }
    }
}

fn summary(totals: &Totals) -> String {
    let Totals { volumes, rewrapped, unchanged, failed, stopped } = totals;
    let mut text =
        format!("{rewrapped} rewrapped, {unchanged} had the KEK already, {failed} failed, of {volumes}\n");
    if *stopped {
        text += "stopped; the same command goes on from here\n";
    }
    text
}

/// Drawn on standard error, and only where that is a terminal.
fn bar(volumes: usize, output: Output) -> ProgressBar {
    if output.is_json() || volumes < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("rekeying {wide_bar} {pos}/{len}, {eta} left");
    ProgressBar::new(volumes as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
