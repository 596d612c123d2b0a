//! Processes that have a file or block device open.

use std::fs;
use std::path::Path;

use super::holder::Holder;
use super::sought::{Sought, look_at};

/// Which processes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// All that have it open.
    Any,
    /// Those that could write to it.
    Write,
}

pub(super) fn holder_of(sought: &Sought, access: Access) -> Option<Holder> {
    let own = std::process::id();
    ids().filter(|&pid| pid != own).find_map(|pid| {
        let directory = Path::new("/proc").join(pid.to_string());
        has_open(&directory, sought, access).then(|| {
            let name = fs::read(directory.join("comm")).unwrap_or_default();
            Holder::Process { pid, name: String::from_utf8_lossy(&name).trim_end().to_owned() }
        })
    })
}

/// All processes that there are now.
pub(super) fn ids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_open(process: &Path, sought: &Sought, access: Access) -> bool {
    let mut open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.any(|descriptor| {
        look_at(&descriptor.path()).is_some_and(|found| sought.is_what(&found))
            && counts(&process.join("fdinfo").join(descriptor.file_name()), access)
    })
}

/// Whether a descriptor was opened with such access, by its description in proc_pid_fdinfo(5).
fn counts(description: &Path, access: Access) -> bool {
    let description = fs::read_to_string(description).unwrap_or_default();
    let flags = description.lines().find_map(|line| line.strip_prefix("flags:"));
    let Some(flags) = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok()) else {
        return false; // closed meanwhile
    };
    let is_open = flags & libc::O_PATH == 0;
    is_open && (access == Access::Any || flags & libc::O_ACCMODE != libc::O_RDONLY)
}
