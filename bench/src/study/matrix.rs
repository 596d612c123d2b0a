//! Workloads, devices, and the presets that put them together.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What requests look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Reads anywhere.
    RandRead,
    /// Writes anywhere.
    RandWrite,
    /// Anywhere, 70 of 100 reads.
    RandMix,
    /// Anywhere, 67 of 100 reads: a database's transactions.
    Oltp,
    /// Reads one after the other.
    Read,
    /// Writes one after the other.
    Write,
}

impl Pattern {
    /// What fio calls it, and the reads among 100 requests of a mix.
    pub fn fio(self) -> (&'static str, Option<u8>) {
        match self {
            Self::RandRead => ("randread", None),
            Self::RandWrite => ("randwrite", None),
            Self::RandMix => ("randrw", Some(70)),
            Self::Oltp => ("randrw", Some(67)),
            Self::Read => ("read", None),
            Self::Write => ("write", None),
        }
    }

    /// Whether each job goes through its part of the device in order.
    pub fn is_sequential(self) -> bool {
        matches!(self, Self::Read | Self::Write)
    }

    fn words(self) -> &'static str {
        match self {
            Self::RandRead => "random read",
            Self::RandWrite => "random write",
            Self::RandMix => "random 70/30",
            Self::Oltp => "OLTP mix",
            Self::Read => "sequential read",
            Self::Write => "sequential write",
        }
    }

    fn id(self) -> &'static str {
        match self {
            Self::RandMix => "rand70",
            Self::Oltp => "oltp",
            _ => self.fio().0,
        }
    }
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Workload {
    /// What its requests look like.
    pub pattern: Pattern,
    /// KiB of a request.
    pub block_kib: u32,
    /// Requests under way at once, of each job.
    pub depth: u16,
    /// Processes on each volume.
    pub jobs: u16,
    /// Devices under load at once, each over a backing of its own.
    pub volumes: u16,
    /// Hardware queues of a ublk device; as blkseal has it unless given.
    pub queues: Option<u16>,
}

impl Workload {
    /// One job on one volume.
    pub const fn new(pattern: Pattern, block_kib: u32, depth: u16) -> Self {
        Self { pattern, block_kib, depth, jobs: 1, volumes: 1, queues: None }
    }

    const fn jobs(self, jobs: u16) -> Self {
        Self { jobs, ..self }
    }

    const fn scaled(self, queues: Option<u16>, volumes: u16) -> Self {
        Self { queues, volumes, ..self }
    }

    /// What a person calls it.
    pub fn title(&self) -> String {
        let mut title = format!("{} KiB {}, depth {}", self.block_kib, self.pattern.words(), self.depth);
        let mut add = |count: u16, what: &str| title += &format!(", {count} {what}{}", plural(count));
        if self.jobs > 1 {
            add(self.jobs, "job");
        }
        if self.volumes > 1 {
            add(self.volumes, "volume");
        }
        if let Some(queues) = self.queues {
            add(queues, "queue");
        }
        title
    }

    /// Whether its speed is said in bytes a second, not in requests.
    pub fn is_streaming(&self) -> bool {
        self.block_kib >= 64
    }
}

fn plural(count: u16) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Its short name, unique among workloads.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, block_kib, depth, jobs, volumes, queues } = *self;
        let mut id = format!("{}-{block_kib}k-d{depth}-j{jobs}", pattern.id());
        if volumes > 1 {
            id += &format!("-v{volumes}");
        }
        if let Some(queues) = queues {
            id += &format!("-q{queues}");
        }
        f.pad(&id)
    }
}

/// What lies between fio and the backing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// Nothing: the backing itself.
    Raw,
    /// blkseal's target that answers at once, with no backing.
    Null,
    /// blkseal's target that passes everything on.
    Plain,
    /// A volume of blkseal.
    Crypt,
    /// The kernel's dm-crypt with its default flags.
    DmCrypt,
    /// dm-crypt with `no_read_workqueue,no_write_workqueue`.
    DmCryptNoWq,
}

impl DeviceKind {
    /// All, in the order of reports.
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Null, Self::Plain, Self::Crypt, Self::DmCrypt, Self::DmCryptNoWq];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Null => "null",
            Self::Plain => "plain",
            Self::Crypt => "crypt",
            Self::DmCrypt => "dm-crypt",
            Self::DmCryptNoWq => "dm-crypt no_wq",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A matrix by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Two workloads, two rounds: a short look
    Quick,
    /// What the project asks of its ratios, and whether it is reached
    Targets,
    /// 1 and 2 queues, 1 to 8 volumes
    Scaling,
    /// Every workload, by depth, by jobs
    Full,
}

impl Preset {
    /// Its workloads.
    pub fn workloads(self) -> Vec<Workload> {
        use Pattern::{Oltp, RandMix, RandRead, RandWrite, Read, Write};
        match self {
            Self::Quick => vec![Workload::new(RandRead, 4, 32), Workload::new(Write, 512, 8)],
            Self::Targets => [RandRead, RandWrite]
                .iter()
                .flat_map(|&pattern| [1, 32].map(|depth| Workload::new(pattern, 4, depth)))
                .chain([Read, Write].map(|pattern| Workload::new(pattern, 128, 8)))
                .collect(),
            Self::Scaling => scaling(),
            Self::Full => {
                [(RandRead, 4), (RandWrite, 4), (RandMix, 4), (Oltp, 8), (RandRead, 64), (RandWrite, 64)]
                    .into_iter()
                    .chain([(Read, 512), (Write, 512)])
                    .flat_map(|(pattern, block)| by_depth_and_jobs(pattern, block))
                    .collect()
            }
        }
    }

    /// Its devices.
    pub fn devices(self) -> Vec<DeviceKind> {
        use DeviceKind::{Crypt, DmCrypt, DmCryptNoWq, Null, Plain};
        match self {
            Self::Targets => vec![Null, Plain, Crypt, DmCrypt, DmCryptNoWq],
            Self::Scaling => vec![Plain, Crypt, DmCrypt, DmCryptNoWq],
            _ => DeviceKind::ALL.to_vec(),
        }
    }

    /// The most volumes that are loaded at once.
    pub fn volumes(self) -> u16 {
        self.workloads().iter().map(|workload| workload.volumes).max().unwrap_or(1)
    }

    /// Rounds unless others are asked for.
    pub fn rounds(self) -> u32 {
        match self {
            Self::Quick => 2,
            Self::Targets => 5,
            Self::Scaling | Self::Full => 3,
        }
    }

    /// Seconds of a measurement unless others are asked for.
    pub fn seconds(self) -> u32 {
        match self {
            Self::Quick | Self::Targets => 1,
            Self::Scaling => 2,
            Self::Full => 5,
        }
    }
}

fn by_depth_and_jobs(pattern: Pattern, block_kib: u32) -> Vec<Workload> {
    let depths: &[u16] = if block_kib >= 512 { &[1, 8] } else { &[1, 8, 32] };
    let at = |depth| [1, 2, 4].map(|jobs| Workload::new(pattern, block_kib, depth).jobs(jobs));
    depths.iter().flat_map(|&depth| at(depth)).collect()
}

fn scaling() -> Vec<Workload> {
    let loads = [Workload::new(Pattern::RandRead, 4, 32), Workload::new(Pattern::Write, 128, 8)];
    let scale = |load: Workload| {
        let queues = [1, 2].map(|queues| load.jobs(2).scaled(Some(queues), 1));
        queues.into_iter().chain([1, 2, 4, 8].map(|volumes| load.scaled(None, volumes)))
    };
    loads.into_iter().flat_map(scale).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_workload_of_a_preset_has_a_name_of_its_own() {
        for preset in [Preset::Quick, Preset::Targets, Preset::Scaling, Preset::Full] {
            let workloads = preset.workloads();
            let names: BTreeSet<_> = workloads.iter().map(ToString::to_string).collect();
            assert_eq!(names.len(), workloads.len(), "{preset:?}");
        }
    }

    #[test]
    fn titles_say_what_is_not_usual() {
        let load = Workload::new(Pattern::RandMix, 4, 8);
        assert_eq!(load.title(), "4 KiB random 70/30, depth 8");
        assert_eq!(
            load.jobs(2).scaled(Some(1), 4).title(),
            "4 KiB random 70/30, depth 8, 2 jobs, 4 volumes, 1 queue"
        );
    }
}
