//! A holder, in words.

use std::fmt;

/// Somebody who holds a block device or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A file system on it is mounted.
    Mount {
        /// Where, as the processes of that mount namespace see it.
        point: String,
        /// A process of that mount namespace; none where it is this process's own.
        seen_by: Option<u32>,
    },
    /// A block device is made of it: a loop device, one of device mapper or md.
    Device {
        /// The kernel's name, `loop0` or `dm-3`.
        name: String,
        /// What device mapper calls it.
        mapped: Option<String>,
    },
    /// It is swap.
    Swap,
    /// Other hosts use it through an NVMe or SCSI target of this host's kernel.
    Target {
        /// `NVMe` or `SCSI`.
        protocol: &'static str,
        /// The target's name.
        name: String,
    },
    /// A process has it open.
    Process {
        /// Its id.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// It is a file that some process executes.
    Program,
    /// Somebody has locked it, and was not found: this process, for one.
    Locked,
    /// Somebody has claimed it, and was not found.
    Unknown,
}

impl Holder {
    /// Whether waiting a moment may help: udev and the like look at each new device.
    pub(super) fn may_let_go(&self) -> bool {
        matches!(self, Self::Process { .. } | Self::Locked | Self::Unknown)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount { point, seen_by: None } => write!(f, "it is mounted on {point}"),
            Self::Mount { point, seen_by: Some(pid) } => {
                write!(f, "it is mounted on {point} in the mount namespace of process {pid}")
            }
            Self::Device { name, mapped: None } => write!(f, "/dev/{name} is on it"),
            Self::Device { name, mapped: Some(mapped) } => write!(f, "/dev/{name} ({mapped}) is on it"),
            Self::Swap => write!(f, "it is swap"),
            Self::Target { protocol, name } => write!(f, "the {protocol} target {name} exports it"),
            Self::Process { pid, name } => write!(f, "process {pid} ({name}) has it open"),
            Self::Program => write!(f, "it is a running program"),
            Self::Locked => write!(f, "another process has locked it"),
            Self::Unknown => write!(f, "another process has claimed it"),
        }
    }
}
