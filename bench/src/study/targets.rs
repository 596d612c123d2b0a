//! What the project asks of its ratios, and what was reached.

use std::fmt::Write;

use serde::Serialize;

use super::cells::Figures;
use super::matrix::{DeviceKind, Preset, Workload};
use super::summary::{self, Summary};

/// Against which device, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Against {
    /// The faster of both ways of dm-crypt.
    BetterDmCrypt,
    /// blkseal's target that passes everything on.
    Plain,
}

/// One ratio of medians, `crypt` to another.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The load.
    pub workload: Workload,
    /// What is compared: requests a second, or half of all latencies.
    pub figure: &'static str,
    /// To what.
    pub against: Against,
    /// The ratio that is asked for.
    pub asked: f64,
    /// The highest that is allowed, if true; else the lowest.
    pub at_most: bool,
    /// What was reached; none if one of both was not measured.
    pub reached: Option<f64>,
}

impl Check {
    /// Whether it is reached.
    pub fn holds(&self) -> bool {
        self.reached.is_some_and(|ratio| if self.at_most { ratio <= self.asked } else { ratio >= self.asked })
    }

    /// The ratio in words.
    pub fn name(&self) -> String {
        let against = match self.against {
            Against::BetterDmCrypt => "the better dm-crypt",
            Against::Plain => "plain",
        };
        format!("{}: {}, crypt to {against}", self.workload.title(), self.figure)
    }

    /// What is asked for, with its direction.
    pub fn asked_text(&self) -> String {
        format!("{} {:.2}", if self.at_most { "≤" } else { "≥" }, self.asked)
    }

    /// What was reached.
    pub fn reached_text(&self) -> String {
        self.reached.map_or_else(|| "not measured".to_owned(), |ratio| format!("{ratio:.2}"))
    }

    /// The verdict in a word.
    pub fn verdict(&self) -> &'static str {
        if self.holds() { "reached" } else { "missed" }
    }
}

/// Every ratio that is asked for and whose workload is in the study.
pub fn checks(summaries: &[Summary]) -> Vec<Check> {
    let measured = summary::workloads(summaries);
    let workloads = Preset::Targets.workloads().into_iter().filter(|workload| measured.contains(workload));
    workloads
        .flat_map(|workload| [against_dm_crypt(summaries, workload), against_plain(summaries, workload)])
        .collect()
}

fn against_dm_crypt(summaries: &[Summary], workload: Workload) -> Check {
    let of = |device| summary::find(summaries, &workload, device);
    let both = [of(DeviceKind::DmCrypt), of(DeviceKind::DmCryptNoWq)];
    let better = |figure: fn(&Figures) -> f64, choose: fn(f64, f64) -> f64| {
        let known = both.iter().flatten().map(|figures| figure(figures)).reduce(choose)?;
        Some(figure(of(DeviceKind::Crypt)?) / known)
    };
    let (figure, asked, at_most, reached) = if workload.depth == 1 {
        ("latency p50", 1.3, true, better(|figures| figures.latency.p50, f64::min))
    } else {
        let asked = if workload.is_streaming() { 1.3 } else { 1.0 };
        ("requests a second", asked, false, better(|figures| figures.iops, f64::max))
    };
    Check { workload, figure, against: Against::BetterDmCrypt, asked, at_most, reached }
}

fn against_plain(summaries: &[Summary], workload: Workload) -> Check {
    let iops = |device| summary::find(summaries, &workload, device).map(|figures| figures.iops);
    let reached = iops(DeviceKind::Crypt).zip(iops(DeviceKind::Plain)).map(|(crypt, plain)| crypt / plain);
    let figure = "requests a second";
    Check { workload, figure, against: Against::Plain, asked: 0.85, at_most: false, reached }
}

/// Both tables, as Markdown: medians, then ratios.
pub fn tables(summaries: &[Summary]) -> String {
    let mut text = medians_table(summaries);
    let checks = checks(summaries);
    if !checks.is_empty() {
        text += "\n| ratio of medians | asked | reached | |\n|---|---|---|---|\n";
        for check in checks {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                check.name(),
                check.asked_text(),
                check.reached_text(),
                check.verdict()
            );
        }
    }
    text
}

fn medians_table(summaries: &[Summary]) -> String {
    let devices: Vec<DeviceKind> = DeviceKind::ALL
        .into_iter()
        .filter(|device| summaries.iter().any(|summary| summary.device == *device))
        .collect();
    let mut text = String::from("| medians: IOPS or MB/s, p50 µs, CPU µs a request |");
    for device in &devices {
        let _ = write!(text, " {device} |");
    }
    text += &format!("\n|---|{}\n", "---|".repeat(devices.len()));
    for workload in summary::workloads(summaries) {
        let _ = write!(text, "| {} |", workload.title());
        for &device in &devices {
            let figures = summary::find(summaries, &workload, device);
            let _ = write!(
                text,
                " {} |",
                figures.map_or_else(|| "failed".to_owned(), |figures| cell(&workload, figures))
            );
        }
        text.push('\n');
    }
    text
}

fn cell(workload: &Workload, figures: &Figures) -> String {
    let cpu = figures.cpu_us_per_io.map_or_else(|| "?".to_owned(), |cpu| format!("{cpu:.0}"));
    format!("{}, {:.0}, {cpu}", speed(workload, figures), figures.latency.p50)
}

/// The figure by which a workload is judged, with its unit where that is not requests a second.
pub fn speed(workload: &Workload, figures: &Figures) -> String {
    if workload.is_streaming() {
        format!("{:.0} MB/s", figures.bytes_per_second / 1e6)
    } else {
        format!("{:.0}", figures.iops)
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::Pattern;
    use super::super::summary::{summarize, tests::cell};
    use super::*;

    fn reached(workload: Workload, crypt: f64, dm: [f64; 2], plain: f64) -> Vec<(bool, f64)> {
        let lines = [
            cell(1, workload, DeviceKind::Crypt, crypt),
            cell(1, workload, DeviceKind::DmCrypt, dm[0]),
            cell(1, workload, DeviceKind::DmCryptNoWq, dm[1]),
            cell(1, workload, DeviceKind::Plain, plain),
        ];
        checks(&summarize(&lines)).iter().map(|check| (check.holds(), check.reached.unwrap())).collect()
    }

    #[test]
    fn the_better_dm_crypt_is_the_measure() {
        let deep = Workload::new(Pattern::RandRead, 4, 32);
        assert_eq!(reached(deep, 100.0, [50.0, 80.0], 100.0), [(true, 1.25), (true, 1.0)]);
        assert_eq!(reached(deep, 100.0, [125.0, 80.0], 200.0), [(false, 0.8), (false, 0.5)]);
    }

    #[test]
    fn at_depth_1_latency_counts_and_less_is_better() {
        let shallow = Workload::new(Pattern::RandWrite, 4, 1);
        assert_eq!(reached(shallow, 50.0, [40.0, 60.0], 50.0)[0], (true, 1.2));
        assert_eq!(reached(shallow, 50.0, [100.0, 60.0], 50.0)[0], (false, 2.0));
    }

    #[test]
    fn streams_must_be_faster_by_a_third() {
        let stream = Workload::new(Pattern::Read, 128, 8);
        assert_eq!(reached(stream, 120.0, [100.0, 90.0], 120.0)[0], (false, 1.2));
    }

    #[test]
    fn what_was_not_measured_is_missed_and_said() {
        let deep = Workload::new(Pattern::RandRead, 4, 32);
        let summaries = summarize(&[cell(1, deep, DeviceKind::Crypt, 1.0)]);
        assert!(checks(&summaries).iter().all(|check| !check.holds()));
        assert!(tables(&summaries).contains("| ≥ 1.00 | not measured | missed |"), "{}", tables(&summaries));
    }
}
