//! Medians over the rounds.

use serde::Serialize;

use super::bpf::Split;
use super::cells::{Cell, Figures, Line, Outcome, Purpose};
use super::fio::Latency;
use super::matrix::{DeviceKind, Workload};
use crate::median::median;

/// One workload on one device.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The load.
    pub workload: Workload,
    /// What was loaded.
    pub device: DeviceKind,
    /// Rounds that the medians are of.
    pub rounds: usize,
    /// Medians, each figure's by itself; none if no round was measured.
    pub median: Option<Figures>,
    /// The lowest and the highest requests a second of a round.
    pub iops_range: Option<(f64, f64)>,
    /// Where its time went, if that was looked into.
    pub split: Option<Split>,
    /// Why something is missing, where it failed and did not succeed later.
    pub failed: Vec<String>,
}

/// What came of each cell, in the order in which they were begun.
pub fn summarize(lines: &[Line]) -> Vec<Summary> {
    let cells: Vec<&Cell> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Cell(cell) => Some(&**cell),
            _ => None,
        })
        .collect();
    let mut keys: Vec<(Workload, DeviceKind)> = Vec::new();
    for cell in &cells {
        let key = (cell.task.workload, cell.task.device);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut workloads: Vec<Workload> = keys.iter().map(|(workload, _)| *workload).collect();
    workloads.dedup();
    // Devices in the order of reports: within a round their turns differ.
    keys.sort_by_key(|&(workload, device)| (workloads.iter().position(|&other| other == workload), device));
    keys.into_iter().map(|(workload, device)| of_key(&cells, workload, device)).collect()
}

fn of_key(cells: &[&Cell], workload: Workload, device: DeviceKind) -> Summary {
    let mine = cells.iter().filter(|cell| cell.task.workload == workload && cell.task.device == device);
    // What was tried again counts as it came out last.
    let mut last: Vec<(Purpose, &Outcome)> = Vec::new();
    for cell in mine {
        last.retain(|(purpose, _)| *purpose != cell.task.purpose);
        last.push((cell.task.purpose, &cell.outcome));
    }
    let measured: Vec<&Figures> = last
        .iter()
        .filter_map(
            |(_, outcome)| if let Outcome::Measured(figures) = outcome { Some(figures) } else { None },
        )
        .collect();
    let splits = last
        .iter()
        .find_map(|(_, outcome)| if let Outcome::Traced(split) = outcome { Some(*split) } else { None });
    let failed = last
        .iter()
        .filter_map(|(_, outcome)| if let Outcome::Failed(why) = outcome { Some(why.clone()) } else { None })
        .collect();
    let iops = measured.iter().map(|figures| figures.iops);
    let range = iops.fold(None, |range: Option<(f64, f64)>, iops| {
        Some(range.map_or((iops, iops), |(low, high)| (low.min(iops), high.max(iops))))
    });
    let rounds = measured.len();
    Summary { workload, device, rounds, median: medians(&measured), iops_range: range, split: splits, failed }
}

fn medians(rounds: &[&Figures]) -> Option<Figures> {
    if rounds.is_empty() {
        return None;
    }
    let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(|figures| figure(figures)));
    let of_some = |figure: fn(&Figures) -> Option<f64>| {
        let known: Vec<f64> = rounds.iter().filter_map(|figures| figure(figures)).collect();
        if known.is_empty() { None } else { Some(median(known)) }
    };
    Some(Figures {
        iops: of(|figures| figures.iops),
        bytes_per_second: of(|figures| figures.bytes_per_second),
        latency: Latency {
            mean: of(|figures| figures.latency.mean),
            p50: of(|figures| figures.latency.p50),
            p99: of(|figures| figures.latency.p99),
            p99_9: of(|figures| figures.latency.p99_9),
            p99_99: of(|figures| figures.latency.p99_99),
        },
        cpu_us_per_io: of_some(|figures| figures.cpu_us_per_io),
        cycles_per_io: of_some(|figures| figures.cycles_per_io),
    })
}

/// The medians of a workload on a device.
pub fn find<'a>(summaries: &'a [Summary], workload: &Workload, device: DeviceKind) -> Option<&'a Figures> {
    let mut mine =
        summaries.iter().filter(|summary| summary.workload == *workload && summary.device == device);
    mine.next()?.median.as_ref()
}

/// The workloads, each once, in order.
pub fn workloads(summaries: &[Summary]) -> Vec<Workload> {
    let mut workloads: Vec<Workload> = summaries.iter().map(|summary| summary.workload).collect();
    workloads.dedup();
    workloads
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::cells::Task;
    use super::super::matrix::Pattern;
    use super::*;

    pub fn cell(round: u32, workload: Workload, device: DeviceKind, iops: f64) -> Line {
        let latency = Latency {
            mean: 1e6 / iops,
            p50: 1e6 / iops,
            p99: 2e6 / iops,
            p99_9: 3e6 / iops,
            p99_99: 4e6 / iops,
        };
        let figures = Figures {
            iops,
            bytes_per_second: iops * f64::from(workload.block_kib) * 1024.0,
            latency,
            cpu_us_per_io: Some(5.0),
            cycles_per_io: None,
        };
        of(Purpose::Round(round), workload, device, Outcome::Measured(figures))
    }

    pub fn of(purpose: Purpose, workload: Workload, device: DeviceKind, outcome: Outcome) -> Line {
        Line::Cell(Box::new(Cell { task: Task { purpose, workload, device }, outcome }))
    }

    const LOAD: Workload = Workload::new(Pattern::RandRead, 4, 32);

    #[test]
    fn medians_are_over_rounds() {
        let lines: Vec<Line> = [(1, 10.0), (2, 1000.0), (3, 20.0)]
            .map(|(round, iops)| cell(round, LOAD, DeviceKind::Crypt, iops))
            .into();
        let summaries = summarize(&lines);
        assert_eq!(summaries.len(), 1);
        assert_eq!(summaries[0].median.as_ref().unwrap().iops, 20.0);
        assert_eq!(summaries[0].iops_range, Some((10.0, 1000.0)));
        assert_eq!(summaries[0].median.as_ref().unwrap().cycles_per_io, None);
    }

    #[test]
    fn what_failed_and_then_succeeded_is_no_failure() {
        let failure = || of(Purpose::Round(1), LOAD, DeviceKind::Plain, Outcome::Failed("broken".to_owned()));
        let summaries = summarize(&[failure()]);
        assert!(summaries[0].median.is_none());
        assert_eq!(summaries[0].failed, ["broken"]);
        let summaries = summarize(&[failure(), cell(1, LOAD, DeviceKind::Plain, 5.0)]);
        assert_eq!((summaries[0].rounds, summaries[0].failed.len()), (1, 0));
    }

    #[test]
    fn devices_are_in_the_order_of_reports_and_workloads_in_that_of_the_matrix() {
        let other = Workload::new(Pattern::Write, 128, 8);
        let lines = [
            cell(1, other, DeviceKind::DmCrypt, 1.0),
            cell(1, other, DeviceKind::Raw, 1.0),
            cell(1, LOAD, DeviceKind::Crypt, 1.0),
        ];
        let order: Vec<_> =
            summarize(&lines).iter().map(|summary| (summary.workload, summary.device)).collect();
        assert_eq!(
            order,
            [(other, DeviceKind::Raw), (other, DeviceKind::DmCrypt), (LOAD, DeviceKind::Crypt)]
        );
    }
}
