//! Plots as SVG within the page. Every text goes through `maud`, which escapes it.

use maud::{Markup, html};

use super::bpf::Split;
use super::fio::Latency;
use super::matrix::DeviceKind;
use super::numbers;

/// Width of a panel, in the units of its picture.
const WIDTH: f64 = 380.0;
/// Where a panel's bars begin: left of it are the names of devices.
const LEFT: f64 = 104.0;
/// Height of a row.
const ROW: f64 = 22.0;
/// Room for the number behind the longest bar.
const NUMBER: f64 = 74.0;

/// The colour of a device, the same in all plots; distinct for the colour-blind.
pub fn colour(device: DeviceKind) -> &'static str {
    match device {
        DeviceKind::Raw => "#5c6370",
        DeviceKind::Null => "#a9b0bb",
        DeviceKind::Plain => "#4b9cd3",
        DeviceKind::Crypt => "#d1495b",
        DeviceKind::DmCrypt => "#1b7f5c",
        DeviceKind::DmCryptNoWq => "#7fbf7b",
    }
}

/// One bar.
pub struct Bar {
    /// Whose.
    pub device: DeviceKind,
    /// How long; none where it was not measured.
    pub value: Option<f64>,
    /// The lowest and highest of the rounds.
    pub range: Option<(f64, f64)>,
    /// The number behind it.
    pub text: String,
}

/// A panel of horizontal bars that begin at 0.
pub fn bars(title: &str, bars: &[Bar]) -> Markup {
    let highest = |bar: &Bar| bar.range.map_or(bar.value, |(_, high)| Some(high)).unwrap_or(0.0);
    let most = bars.iter().map(highest).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LEFT + value / most * (WIDTH - LEFT - NUMBER);
    panel(
        title,
        bars.len() as f64 * ROW + 4.0,
        &html! {
            @for (row, bar) in bars.iter().enumerate() {
                @let top = row as f64 * ROW + 2.0;
                (device_name(bar.device, top))
                @let end = x(bar.value.unwrap_or(0.0));
                rect x=(LEFT) y=(top + 3.0) width=(end - LEFT) height=(ROW - 6.0) fill=(colour(bar.device)) rx="1.5" {}
                @let behind = bar.range.map_or(end, |(_, high)| x(high).max(end));
                @if let Some((low, high)) = bar.range {
                    line.whisker x1=(x(low)) x2=(x(high)) y1=(top + ROW / 2.0) y2=(top + ROW / 2.0) {}
                }
                text x=(behind + 5.0) y=(top + ROW / 2.0 + 4.0) { (bar.text) }
            }
        },
    )
}

/// A panel of one line a device over the percentiles, on a logarithmic scale of time.
pub fn percentiles(title: &str, devices: &[(DeviceKind, Latency)]) -> Markup {
    const HEIGHT: f64 = 190.0;
    const BOTTOM: f64 = HEIGHT - 24.0;
    const AXIS: f64 = 52.0;
    let values = || devices.iter().flat_map(|(_, latency)| latency.percentiles().map(|(_, us)| us.max(0.1)));
    let low = values().fold(f64::MAX, f64::min).log10().floor();
    let high = values().fold(f64::MIN_POSITIVE, f64::max).log10().ceil().max(low + 1.0);
    let y = |us: f64| BOTTOM - (us.max(0.1).log10() - low) / (high - low) * (BOTTOM - 10.0);
    let x = |step: usize| AXIS + 26.0 + step as f64 * (WIDTH - AXIS - 52.0) / 3.0;
    let path = |latency: &Latency| {
        let points = latency.percentiles();
        let points = points.iter().enumerate().map(|(step, (_, us))| format!("{:.1},{:.1}", x(step), y(*us)));
        points.collect::<Vec<_>>().join(" ")
    };
    panel(
        title,
        HEIGHT,
        &html! {
            @for power in low as i32..=high as i32 {
                @let us = 10f64.powi(power);
                line.grid x1=(AXIS) x2=(WIDTH - 4.0) y1=(y(us)) y2=(y(us)) {}
                text.axis x=(AXIS - 5.0) y=(y(us) + 4.0) text-anchor="end" { (tick(us)) }
            }
            @for (step, (name, _)) in Latency::default().percentiles().iter().enumerate() {
                text.axis x=(x(step)) y=(HEIGHT - 6.0) text-anchor="middle" { (name) }
            }
            @for (device, latency) in devices {
                polyline points=(path(latency)) fill="none" stroke=(colour(*device)) stroke-width="1.8" {
                    title { (device) }
                }
                @for (step, (name, us)) in latency.percentiles().iter().enumerate() {
                    circle cx=(x(step)) cy=(y(*us)) r="3" fill=(colour(*device)) {
                        title { (device) ", " (name) ": " (numbers::time(*us)) }
                    }
                }
            }
        },
    )
}

fn tick(us: f64) -> String {
    match us {
        seconds if seconds >= 1e6 => format!("{:.0} s", us / 1e6),
        milliseconds if milliseconds >= 1e3 => format!("{:.0} ms", us / 1e3),
        _ => format!("{us} µs"),
    }
}

/// A part of a request's time.
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Its colour.
    pub colour: &'static str,
    us: fn(&Split) -> f64,
}

/// The parts in the order in which they are drawn.
pub const PARTS: [Part; 4] = [
    Part { name: "block layer", colour: "#e3b23c", us: |split| split.block_us },
    Part { name: "driver: blkseal or dm-crypt", colour: "#d1495b", us: |split| split.driver_us },
    Part { name: "backing device", colour: "#5c6370", us: |split| split.backing_us },
    Part { name: "outside: system calls, fio", colour: "#b8c4d6", us: |split| split.outside_us },
];

/// A panel of stacked bars: where the time of a request goes.
pub fn splits(title: &str, devices: &[(DeviceKind, Split)]) -> Markup {
    let most = devices.iter().map(|(_, split)| split.total_us()).fold(f64::MIN_POSITIVE, f64::max);
    let width = |us: f64| us / most * (WIDTH - LEFT - NUMBER);
    panel(
        title,
        devices.len() as f64 * ROW + 4.0,
        &html! {
            @for (row, (device, split)) in devices.iter().enumerate() {
                @let top = row as f64 * ROW + 2.0;
                (device_name(*device, top))
                @for (part, start) in PARTS.iter().zip(starts(split)) {
                @let us = (part.us)(split);
                rect x=(LEFT + width(start)) y=(top + 3.0) width=(width(us)) height=(ROW - 6.0) fill=(part.colour) {
                    title { (part.name) ": " (numbers::time(us)) }
                }
            }
            text x=(LEFT + width(split.total_us()) + 5.0) y=(top + ROW / 2.0 + 4.0) { (numbers::time(split.total_us())) }
            }
        },
    )
}

/// Where each part begins.
fn starts(split: &Split) -> [f64; 4] {
    let mut start = 0.0;
    PARTS.map(|part| {
        let here = start;
        start += (part.us)(split);
        here
    })
}

/// One row of ratios.
pub struct Ratios {
    /// What they are of.
    pub name: String,
    /// Each device's.
    pub of: Vec<(DeviceKind, f64)>,
}

/// Dots around the line at 1, a row a workload.
pub fn ratios(title: &str, rows: &[Ratios]) -> Markup {
    const WIDE: f64 = 780.0;
    const NAMES: f64 = 270.0;
    let most = rows.iter().flat_map(|row| row.of.iter().map(|(_, ratio)| *ratio)).fold(1.0, f64::max);
    let most = (most * 4.0).ceil() / 4.0;
    let x = |ratio: f64| NAMES + ratio / most * (WIDE - NAMES - 20.0);
    let bottom = rows.len() as f64 * ROW + 4.0;
    // At most a dozen marks.
    let step = if most > 3.0 { 1.0 } else { 0.25 };
    let marks = (0..=(most / step) as i32).map(|mark| f64::from(mark) * step);
    wide_panel(
        title,
        WIDE,
        bottom + 20.0,
        &html! {
            @for mark in marks {
                line.grid .one[mark == 1.0] x1=(x(mark)) x2=(x(mark)) y1="0" y2=(bottom) {}
                text.axis x=(x(mark)) y=(bottom + 14.0) text-anchor="middle" { (mark) }
            }
            @for (row, ratios) in rows.iter().enumerate() {
                @let middle = row as f64 * ROW + ROW / 2.0 + 2.0;
                text x=(NAMES - 8.0) y=(middle + 4.0) text-anchor="end" { (ratios.name) }
                line.row x1=(NAMES) x2=(WIDE - 20.0) y1=(middle) y2=(middle) {}
                @for (device, ratio) in &ratios.of {
                    circle cx=(x(*ratio)) cy=(middle) r="5.5" fill=(colour(*device)) {
                        title { (device) ": " (format!("{ratio:.2}")) }
                    }
                }
            }
        },
    )
}

fn device_name(device: DeviceKind, top: f64) -> Markup {
    html! { text x=(LEFT - 6.0) y=(top + ROW / 2.0 + 4.0) text-anchor="end" { (device) } }
}

fn panel(title: &str, height: f64, content: &Markup) -> Markup {
    wide_panel(title, WIDTH, height, content)
}

fn wide_panel(title: &str, width: f64, height: f64, content: &Markup) -> Markup {
    html! {
        figure {
            figcaption { (title) }
            svg viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(title) { (content) }
        }
    }
}
