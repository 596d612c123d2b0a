//! `blkseal status`: all about one volume, or about the daemon.

use clap::Args;

use super::help;
use super::output::{BAD, Cell, GOOD, WAITING, fields, size};
use super::session::Session;
use super::values::VolumeArgument;
use crate::control::{self, Counters, Device, Failure, TargetKind, Version, Volume, VolumeState};

/// Show all about a volume, or about the daemon
#[derive(Debug, Args)]
#[command(after_long_help = help::examples(help::STATUS))]
pub struct Status {
    /// Its name, its UUID, or the path of its backing (with a '/'); without it, the daemon
    volume: Option<VolumeArgument>,
}

impl Status {
    /// Runs the verb.
    pub fn run(self, session: Session) -> Result<(), Failure> {
        let mut daemon = session.daemon()?;
        match self.volume {
            Some(volume) => {
                let answer = daemon.call(&control::Status { volume: volume.text() });
                session.output.answer(&answer.map_err(|failure| volume.explain(failure))?, volume_text)
            }
            None => session.output.answer(&daemon.call(&control::GetVersion {})?, daemon_text),
        }
    }
}

/// A volume's state in its colour.
pub fn state(volume: &Volume) -> Cell {
    match volume.state {
        VolumeState::Locked if volume.wanted => Cell::styled("locked, wanted", WAITING),
        VolumeState::Locked => Cell::styled("locked", WAITING),
        VolumeState::Unlocked => Cell::from("unlocked"),
        VolumeState::Live => Cell::styled("live", GOOD),
        VolumeState::Quiesced => Cell::styled("quiesced", BAD),
    }
}

fn daemon_text(version: &Version) -> String {
    let ublk = if version.ublk { Cell::styled("yes", GOOD) } else { Cell::styled("no", BAD) };
    let mut rows = vec![
        ("daemon", format!("blkseal {}", version.version).into()),
        ("pid", version.pid.into()),
        ("kernel has ublk", ublk),
    ];
    rows.extend(version.problems.iter().map(|problem| ("problem", Cell::styled(problem, BAD))));
    fields(&rows)
}

fn volume_text(volume: &Volume) -> String {
    let mut rows = vec![("name", Cell::from(&volume.name)), ("state", state(volume))];
    let mut add = |key, value: Option<Cell>| rows.extend(value.map(|value| (key, value)));
    add("wanted", volume.wanted.then(|| "opens by itself once its key is to be had".into()));
    add("problem", volume.problem.as_deref().map(|text| Cell::styled(text, BAD)));
    add("notice", volume.notice.as_deref().map(|text| Cell::styled(text, WAITING)));
    add("uuid", volume.uuid.map(Cell::from));
    add("target", (volume.target != TargetKind::Crypt).then(|| target(volume.target).into()));
    add("backing", volume.backing.as_ref().map(|path| path.display().into()));
    let attached = if volume.uuid.is_some() { Some("attached".into()) } else { None };
    add("header", volume.header.as_ref().map(|path| path.display().into()).or(attached));
    add("size", volume.size.map(|bytes| size(bytes).into()));
    add("sector size", volume.sector_size.map(Cell::from));
    add("cipher", volume.cipher.as_ref().map(|cipher| with_bits(cipher, volume.key_bits).into()));
    add("provider", volume.provider.as_ref().map(Cell::from));
    add("kek", volume.kek_id.as_ref().map(Cell::from));
    add("recovery", volume.uuid.is_some().then(|| keyslots(&volume.recovery_keyslots).into()));
    if let Some(device) = &volume.device {
        add_device(device, &mut rows);
    }
    fields(&rows)
}

fn add_device(device: &Device, rows: &mut Vec<(&'static str, Cell)>) {
    let layout = format!(
        "{} of {} requests, each up to {}",
        device.queues,
        device.depth,
        size(device.max_io_bytes.into())
    );
    let mut add = |key, value: Cell| rows.push((key, value));
    add("device", device.node.display().into());
    add("link", device.link.display().into());
    add("access", if device.read_only { "read-only" } else { "read-write" }.into());
    add("discards", if device.discards { "passed to the backing" } else { "not passed on" }.into());
    add("queues", layout.into());
    if let Some(threads) = device.threads.filter(|&threads| threads > 1) {
        add("threads", format!("{threads} a queue").into());
    }
    if let Some(spin) = device.spin_us.filter(|&spin| spin > 0) {
        add("spin", format!("{spin} us before a queue sleeps").into());
    }
    if let Some(pid) = device.pid {
        add("worker", format!("pid {pid}").into());
    }
    rows.extend(device.cpu_path.as_ref().map(|path| ("cpu path", Cell::from(path))));
    rows.extend(device.key_memory.as_ref().map(|kind| ("key memory", Cell::from(kind))));
    match &device.counters {
        Some(counters) => add_counters(counters, rows),
        None => rows.push(("counters", Cell::styled("the worker does not answer", BAD))),
    }
}

fn add_counters(counters: &Counters, rows: &mut Vec<(&'static str, Cell)>) {
    let errors = match counters.errors {
        0 => Cell::from(0),
        errors => Cell::styled(&errors.to_string(), BAD),
    };
    rows.extend([
        ("reads", Cell::from(format!("{}, {} bytes", counters.reads, counters.read_bytes))),
        ("writes", Cell::from(format!("{}, {} bytes", counters.writes, counters.written_bytes))),
        ("flushes", counters.flushes.into()),
        ("discards done", counters.discards.into()),
        ("write-zeroes", counters.write_zeroes.into()),
        ("errors", errors),
    ]);
}

fn target(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Null => "null: no backing, for studies",
        TargetKind::Plain => "plain: NOT encrypted, for studies",
        TargetKind::Crypt => "crypt",
    }
}

fn with_bits(cipher: &str, bits: Option<u32>) -> String {
    bits.map_or_else(|| cipher.to_owned(), |bits| format!("{cipher}, {bits}-bit key"))
}

/// Keyslots in words.
pub fn keyslots(slots: &[u32]) -> String {
    let list: Vec<String> = slots.iter().map(u32::to_string).collect();
    match list.len() {
        0 => "no passphrase".into(),
        1 => format!("passphrase in keyslot {}", list[0]),
        _ => format!("passphrases in keyslots {}", list.join(", ")),
    }
}
