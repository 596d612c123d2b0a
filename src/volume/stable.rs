//! Names of disks that lead to the same disk after a restart: `/dev/sdb` may be another disk then.

use std::fs;
use std::path::{Path, PathBuf};

use super::known::same_file;

/// Where udev and device mapper keep such names, below `/dev`, the better ones first.
const DIRECTORIES: [&str; 3] = ["disk/by-id", "disk/by-partuuid", "mapper"];

/// The stable name of the block device `path`: itself where it is one, or the best that leads to the same device. None for a
/// device without one. This looks at the disk.
pub fn stable_name(path: &Path) -> Option<PathBuf> {
    stable_name_in(Path::new("/dev"), path)
}

/// Whether `path` is a block device.
pub fn is_block_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn stable_name_in(dev: &Path, path: &Path) -> Option<PathBuf> {
    let mut directories = DIRECTORIES.iter().map(|directory| dev.join(directory));
    if directories.clone().any(|directory| path.parent() == Some(&directory)) {
        return Some(path.to_owned());
    }
    directories.find_map(|directory| {
        let mut names: Vec<PathBuf> =
            fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path()).collect();
        names.retain(|name| rank(name).is_some() && same_file(name, path));
        names.into_iter().min_by_key(|name| (rank(name), name.clone()))
    })
}

/// How good a name is, the lowest being the best: what the disk itself says of itself, in all places the same, then what says
/// more of it. None for what tells of the content, which is not the disk.
fn rank(name: &Path) -> Option<u8> {
    let name = name.file_name()?.to_str()?;
    match name {
        _ if name.starts_with("lvm-pv-uuid-") || name == "control" => None,
        _ if ["wwn-", "nvme-eui.", "nvme-uuid.", "dm-uuid-", "md-uuid-"]
            .iter()
            .any(|kind| name.starts_with(kind)) =>
        {
            Some(0)
        }
        _ => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_disk_is_remembered_by_the_name_that_stays_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let dev = directory.path();
        for made in DIRECTORIES {
            fs::create_dir_all(dev.join(made)).unwrap();
        }
        let [disk, part, plain] = ["sdb", "sdb1", "sdc"].map(|name| dev.join(name));
        [&disk, &part, &plain].into_iter().for_each(|path| fs::write(path, "").unwrap());
        let links = [
            ("disk/by-id/ata-Maker_Serial", "sdb"),
            ("disk/by-id/wwn-0x5000", "sdb"),
            ("disk/by-id/lvm-pv-uuid-abc", "sdb"),
            ("disk/by-partuuid/11-22", "sdb1"),
            ("disk/by-id/lvm-pv-uuid-def", "sdc"),
            ("here", "sdb"),
        ];
        for (link, target) in links {
            symlink(dev.join(target), dev.join(link)).unwrap();
        }
        let name = |path: &Path| stable_name_in(dev, path);
        assert_eq!(name(&disk), Some(dev.join("disk/by-id/wwn-0x5000")));
        assert_eq!(name(&dev.join("here")), Some(dev.join("disk/by-id/wwn-0x5000")));
        assert_eq!(name(&part), Some(dev.join("disk/by-partuuid/11-22")));
        assert_eq!(name(&plain), None, "what tells of the content is no name of the disk");
        let chosen = dev.join("disk/by-id/ata-Maker_Serial");
        assert_eq!(name(&chosen), Some(chosen), "which somebody chose");
    }
}
