//! The page: one file, with nothing that is not in it.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::cells::{BackingKind, Figures, Place};
use super::host::Host;
use super::matrix::{DeviceKind, Workload};
use super::numbers;
use super::plots::{self, Bar, Ratios};
use super::run::Study;
use super::summary::{self, Summary};
use super::targets::{Check, speed};

/// The whole page.
pub fn page(study: &Study<'_>) -> String {
    let summaries = &study.summaries;
    let title = format!("blkseal study: {:?}", study.settings.preset).to_lowercase();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(include_str!("report.css"))) }
            }
            body {
                h1 { (title) }
                (head(study))
                (legend(summaries))
                (checks(&study.checks))
                (overhead(summaries))
                (bars("Throughput", "Longer is better; the line is the lowest and the highest round.", summaries, throughput_bar))
                (latency(summaries))
                (bars("Processor time a request", "Of the whole machine, fio's own time in it. Shorter is better.", summaries, cpu_bar))
                (bars("Cycles a request", "Of the whole machine. Shorter is better.", summaries, cycles_bar))
                (splits(summaries))
                (every_cell(summaries))
                (machine(study))
                (jobs(study))
            }
        }
    }
    .into_string()
}

fn head(study: &Study<'_>) -> Markup {
    let settings = study.settings;
    html! {
        p.faint {
            (study.cells.len()) " measurements, medians of " (settings.rounds) " interleaved rounds of " (settings.seconds)
            " s, sectors of " (settings.sector_size) " bytes"
        }
        @if matches!(settings.place, Place::Vm(_)) {
            p.note {
                "From a virtual machine whose processors are usually emulated: compare devices with each other, and do not
                take a figure for what hardware does. Emulation makes copies, system calls and wake-ups dear."
            }
        }
        @for missing in &study.missing { p.note { "Left out: " (missing) "." } }
        @for summary in summaries_that_failed(study) {
            @for why in &summary.failed { p.note { "Failed: " (summary.workload.title()) " on " (summary.device) ": " (why) } }
        }
    }
}

fn summaries_that_failed<'a>(study: &'a Study<'_>) -> impl Iterator<Item = &'a Summary> {
    study.summaries.iter().filter(|summary| !summary.failed.is_empty())
}

fn legend(summaries: &[Summary]) -> Markup {
    let used = DeviceKind::ALL
        .into_iter()
        .filter(|device| summaries.iter().any(|summary| summary.device == *device));
    html! {
        div.legend.devices {
            @for device in used {
                span { i style=(format!("background:{}", plots::colour(device))) {} b { (device) } " " span.faint { (meaning(device)) } }
            }
        }
    }
}

fn meaning(device: DeviceKind) -> &'static str {
    match device {
        DeviceKind::Raw => "the backing itself",
        DeviceKind::Null => "ublk alone, no backing",
        DeviceKind::Plain => "blkseal without a cipher",
        DeviceKind::Crypt => "a volume of blkseal",
        DeviceKind::DmCrypt => "default flags",
        DeviceKind::DmCryptNoWq => "no_read_workqueue, no_write_workqueue",
    }
}

fn checks(checks: &[Check]) -> Markup {
    if checks.is_empty() {
        return html! {};
    }
    let reached = checks.iter().filter(|check| check.holds()).count();
    html! {
        h2 { "What is asked: " (reached) " of " (checks.len()) " ratios reached" }
        div.scroll { table {
            tr { th.left { "ratio of medians" } th { "asked" } th { "reached" } th {} }
            @for check in checks {
                tr {
                    td.left { (check.name()) }
                    td { (check.asked_text()) }
                    td { (check.reached_text()) }
                    td class=(if check.holds() { "good" } else { "bad" }) { (check.verdict()) }
                }
            }
        } }
    }
}

/// Ratios of requests a second to those of `to`.
fn ratios_to(summaries: &[Summary], to: &[DeviceKind], of: &[DeviceKind]) -> Vec<Ratios> {
    let iops =
        |workload: &Workload, device| summary::find(summaries, workload, device).map(|figures| figures.iops);
    let mut rows = Vec::new();
    for workload in summary::workloads(summaries) {
        let Some(base) = to.iter().filter_map(|&device| iops(&workload, device)).reduce(f64::max) else {
            continue;
        };
        let ratios = of.iter().filter_map(|&device| Some((device, iops(&workload, device)? / base)));
        rows.push(Ratios { name: workload.title(), of: ratios.collect() });
    }
    rows
}

fn overhead(summaries: &[Summary]) -> Markup {
    use DeviceKind::{Crypt, DmCrypt, DmCryptNoWq, Plain, Raw};
    let charts = [
        ("To the better dm-crypt", ratios_to(summaries, &[DmCrypt, DmCryptNoWq], &[Plain, Crypt])),
        ("To plain: what the cipher costs", ratios_to(summaries, &[Plain], &[Crypt, DmCrypt, DmCryptNoWq])),
        (
            "To raw: what everything costs",
            ratios_to(summaries, &[Raw], &[Plain, Crypt, DmCrypt, DmCryptNoWq]),
        ),
    ];
    html! {
        h2 { "Overhead" }
        p.faint { "Requests a second, as a part of another device's. Left of the line at 1 is slower than that one." }
        div.wide {
            @for (title, rows) in charts.iter().filter(|(_, rows)| !rows.is_empty()) { (plots::ratios(title, rows)) }
        }
    }
}

fn of_workload<'a>(summaries: &'a [Summary], workload: &'a Workload) -> impl Iterator<Item = &'a Summary> {
    summaries.iter().filter(move |summary| summary.workload == *workload)
}

fn bars(title: &str, note: &str, summaries: &[Summary], bar: fn(&Summary) -> Option<Bar>) -> Markup {
    let panel = |workload: &Workload| of_workload(summaries, workload).filter_map(bar).collect::<Vec<_>>();
    let panels: Vec<_> =
        summary::workloads(summaries).iter().map(|workload| (workload.title(), panel(workload))).collect();
    if panels.iter().all(|(_, bars)| bars.iter().all(|bar| bar.value.is_none())) {
        return html! {};
    }
    html! {
        h2 { (title) }
        p.faint { (note) }
        div.panels { @for (title, bars) in &panels { (plots::bars(title, bars)) } }
    }
}

fn throughput_bar(summary: &Summary) -> Option<Bar> {
    let device = summary.device;
    let Some(figures) = &summary.median else {
        return Some(Bar { device, value: None, range: None, text: "failed".to_owned() });
    };
    let unit =
        if summary.workload.is_streaming() { figures.bytes_per_second / figures.iops / 1e6 } else { 1.0 };
    let text = if summary.workload.is_streaming() {
        speed(&summary.workload, figures)
    } else {
        format!("{} IOPS", numbers::short(figures.iops))
    };
    let range = summary.iops_range.map(|(low, high)| (low * unit, high * unit));
    Some(Bar { device, value: Some(figures.iops * unit), range, text })
}

fn cpu_bar(summary: &Summary) -> Option<Bar> {
    let value = summary.median.as_ref().and_then(|figures| figures.cpu_us_per_io);
    let text = value.map_or_else(|| "not measured".to_owned(), numbers::time);
    Some(Bar { device: summary.device, value, range: None, text })
}

fn cycles_bar(summary: &Summary) -> Option<Bar> {
    let value = summary.median.as_ref().and_then(|figures| figures.cycles_per_io);
    let text = value.map_or_else(|| "not measured".to_owned(), numbers::short);
    Some(Bar { device: summary.device, value, range: None, text })
}

fn latency(summaries: &[Summary]) -> Markup {
    let of = |workload: &Workload| {
        let known = of_workload(summaries, workload)
            .filter_map(|summary| Some((summary.device, summary.median.as_ref()?.latency)));
        known.collect::<Vec<_>>()
    };
    html! {
        h2 { "Latency" }
        p.faint { "From handing a request in to its end, on a logarithmic scale. Lower is better." }
        div.panels {
            @for workload in summary::workloads(summaries) {
                @let devices = of(&workload);
                @if !devices.is_empty() { (plots::percentiles(&workload.title(), &devices)) }
            }
        }
    }
}

fn splits(summaries: &[Summary]) -> Markup {
    let of = |workload: &Workload| {
        let known =
            of_workload(summaries, workload).filter_map(|summary| Some((summary.device, summary.split?)));
        known.collect::<Vec<_>>()
    };
    let workloads = summary::workloads(summaries);
    let panels: Vec<_> = workloads
        .iter()
        .map(|load| (load.title(), of(load)))
        .filter(|(_, devices)| !devices.is_empty())
        .collect();
    if panels.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Where the time of a request goes" }
        p.faint {
            "Means, seen by eBPF in a run of its own, which it slows down. The driver's part is its time without that of the
            backing. fio looks for answers only once its whole depth is under way: that wait is outside of the device. A request
            that is too large for the device is seen as its pieces, and what fio waits for the others is outside, too."
        }
        div.legend { @for part in plots::PARTS { span { i style=(format!("background:{}", part.colour)) {} (part.name) } } }
        div.panels { @for (title, devices) in &panels { (plots::splits(title, devices)) } }
    }
}

fn every_cell(summaries: &[Summary]) -> Markup {
    let columns = [
        "IOPS",
        "lowest to highest",
        "MB/s",
        "mean",
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "CPU a request",
        "cycles a request",
        "rounds",
    ];
    html! {
        h2 { "Every cell" }
        div.scroll { table {
            tr { th.left { "workload" } th.left { "device" } @for column in columns { th { (column) } } }
            @for (row, summary) in summaries.iter().enumerate() {
                @let first = row == 0 || summaries[row - 1].workload != summary.workload;
                tr .first[first] {
                    td.left { (summary.workload.title()) }
                    td.left { (summary.device) }
                    @match &summary.median {
                        Some(figures) => (figure_cells(summary, figures)),
                        None => { td.left.bad colspan=(columns.len()) { "failed: " (summary.failed.join("; ")) } },
                    }
                }
            }
        } }
    }
}

fn figure_cells(summary: &Summary, figures: &Figures) -> Markup {
    let latency = figures.latency;
    let (low, high) = summary.iops_range.unwrap_or((figures.iops, figures.iops));
    let or_none = |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), text);
    html! {
        td { (format!("{:.0}", figures.iops)) }
        td.faint { (format!("{low:.0} to {high:.0}")) }
        td { (format!("{:.0}", figures.bytes_per_second / 1e6)) }
        td { (numbers::time(latency.mean)) }
        @for (_, us) in latency.percentiles() { td { (numbers::time(us)) } }
        td { (or_none(figures.cpu_us_per_io, numbers::time)) }
        td { (or_none(figures.cycles_per_io, numbers::short)) }
        td { (summary.rounds) }
    }
}

fn machine(study: &Study<'_>) -> Markup {
    let settings = study.settings;
    let backing = match &settings.backing {
        BackingKind::Memory(mib) => {
            format!("null_blk with {mib} MiB of memory, {}-byte sectors", settings.sector_size)
        }
        BackingKind::Device(path) => format!("{}, its first {} MiB", path.display(), settings.area_mib),
    };
    html! {
        h2 { "The machine" }
        @for host in &study.hosts {
            @let virtual_by = host.virtual_by.as_deref().unwrap_or("none: a real machine");
            @let rows = [
                ("kernel", host.kernel.clone()),
                ("started with", host.kernel_arguments.clone()),
                ("processor", format!("{} × {}", host.cpus, host.cpu)),
                ("its instructions", host.cpu_flags.join(" ")),
                ("memory", format!("{} MiB", host.memory_mib)),
                ("virtual, by", virtual_by.to_owned()),
                ("on a machine of", around(host)),
                ("backing", backing.clone()),
                ("blkseal", format!("{}, commit {}", host.blkseal, settings.commit.as_deref().unwrap_or("unknown"))),
                ("AES in blkseal", host.cpu_path.clone().unwrap_or_default()),
                ("AES in the kernel", host.kernel_cipher.clone().unwrap_or_default()),
                ("fio", host.fio.clone()),
                ("cryptsetup", host.cryptsetup.clone()),
                ("bpftrace", host.bpftrace.clone().unwrap_or_default()),
            ];
            dl { @for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) { dt { (name) } dd { (value) } } }
        }
    }
}

fn around(host: &Host) -> String {
    let Some(around) = &host.around else { return String::new() };
    format!("{} × {}, Linux {}", around.cpus, around.cpu, around.kernel)
}

fn jobs(study: &Study<'_>) -> Markup {
    html! {
        h2 { "fio's jobs" }
        @for workload in study.settings.preset.workloads() {
            details {
                summary { (workload.title()) }
                pre { (study.fio_jobs[&workload.to_string()]) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bpf::Split;
    use super::super::cells::{Line, Outcome, Purpose, tests::settings};
    use super::super::matrix::Preset;
    use super::super::summary::tests::{cell, of};
    use super::*;

    fn page_of(lines: &[Line]) -> String {
        page(&Study::new(&settings(), lines))
    }

    #[test]
    fn every_cell_is_on_the_page_losses_too() {
        let workloads = Preset::Full.workloads();
        let mut lines = Vec::new();
        for (number, workload) in workloads.iter().enumerate() {
            for (turn, device) in DeviceKind::ALL.into_iter().enumerate() {
                lines.push(cell(1, *workload, device, (100_000 + number * 10 + turn) as f64));
            }
        }
        let page = page_of(&lines);
        for (number, workload) in workloads.iter().enumerate() {
            assert!(page.contains(&workload.title()));
            for turn in 0..DeviceKind::ALL.len() {
                assert!(
                    page.contains(&format!("<td>{}</td>", 100_000 + number * 10 + turn)),
                    "{workload} {turn}"
                );
            }
        }
    }

    #[test]
    fn what_is_missed_or_failed_is_said() {
        let load = Preset::Targets.workloads()[1];
        let failure = Outcome::Failed("the device is gone".to_owned());
        let page = page_of(&[
            cell(1, load, DeviceKind::Crypt, 50.0),
            cell(1, load, DeviceKind::DmCrypt, 100.0),
            of(Purpose::Round(1), load, DeviceKind::Plain, failure),
            Line::Missing("cycles".to_owned()),
        ]);
        assert!(page.contains("<td>0.50</td><td class=\"bad\">missed</td>"), "{page}");
        assert!(page.contains("failed: the device is gone"));
        assert!(page.contains("Left out: cycles."));
    }

    #[test]
    fn what_programs_said_is_text_and_nothing_else() {
        let evil = "<script>alert('x')</script>&\"";
        let load = Preset::Targets.workloads()[1];
        let host = Host { cpu: evil.to_owned(), cpu_path: Some(evil.to_owned()), ..Host::default() };
        let page = page_of(&[
            Line::Host(Box::new(host)),
            Line::Missing(evil.to_owned()),
            of(Purpose::Round(1), load, DeviceKind::Plain, Outcome::Failed(evil.to_owned())),
        ]);
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let load = Preset::Targets.workloads()[1];
        let split = Split { requests: 9, block_us: 1.0, driver_us: 2.0, backing_us: 3.0, outside_us: 4.0 };
        let page = page_of(&[of(Purpose::Trace, load, DeviceKind::Crypt, Outcome::Traced(split))]);
        assert!(page.contains("Where the time of a request goes"));
        for elsewhere in ["http:", "https:", "src=", "@import", "url(", "<link"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
