//! What else in the kernel is on a block device or file: device mapper and md, swap, NVMe and SCSI targets.

use std::fs;
use std::path::{Path, PathBuf};

use super::holder::Holder;
use super::mounts::unescape;
use super::sought::Sought;

pub(super) fn holder_of(sought: &Sought) -> Option<Holder> {
    device_above(sought)
        .or_else(|| is_swap(sought).then_some(Holder::Swap))
        .or_else(|| nvme_target(sought))
        .or_else(|| scsi_target(sought))
}

/// Device mapper, md and bcache tell sysfs what they are made of.
fn device_above(sought: &Sought) -> Option<Holder> {
    sought.parts.iter().flat_map(|part| entries(&part.directory.join("holders"))).next().map(|above| {
        let mapped = fs::read_to_string(above.join("dm/name")).ok().map(|name| name.trim().to_owned());
        Holder::Device { name: name_of(&above), mapped }
    })
}

fn is_swap(sought: &Sought) -> bool {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.map(unescape).any(|path| sought.is_at(Path::new(&path)))
}

/// Namespaces of the kernel's NVMe target, which opens devices and files like anybody.
fn nvme_target(sought: &Sought) -> Option<Holder> {
    let subsystems = entries(Path::new("/sys/kernel/config/nvmet/subsystems"));
    subsystems.into_iter().find_map(|subsystem| {
        let namespaces = entries(&subsystem.join("namespaces"));
        let is_it = |namespace: &PathBuf| {
            first_line(&namespace.join("enable")).as_deref() == Some("1")
                && first_line(&namespace.join("device_path"))
                    .is_some_and(|path| sought.is_at(Path::new(&path)))
        };
        let found = namespaces.iter().any(is_it);
        found.then(|| Holder::Target { protocol: "NVMe", name: name_of(&subsystem) })
    })
}

/// Backstores of the kernel's SCSI target (LIO).
fn scsi_target(sought: &Sought) -> Option<Holder> {
    let adapters = entries(Path::new("/sys/kernel/config/target/core"));
    adapters.iter().flat_map(|adapter| entries(adapter)).find_map(|store| {
        let path = first_line(&store.join("udev_path")).filter(|path| !path.is_empty());
        let path = path.or_else(|| {
            // Where nobody has said what the path is, that of a file is in the description.
            let info = fs::read_to_string(store.join("info")).ok()?;
            Some(info.split_once("File: ")?.1.split_whitespace().next()?.to_owned())
        })?;
        let found = sought.is_at(Path::new(&path));
        found.then(|| Holder::Target { protocol: "SCSI", name: name_of(&store) })
    })
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn first_line(file: &Path) -> Option<String> {
    fs::read_to_string(file).ok()?.lines().next().map(|line| line.trim().to_owned())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
