//! What lies below every device: memory of null_blk, or a device that holds nothing.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cells::{BackingKind, Settings};
use super::{Result, StudyError, commands};

const CONFIGFS: &str = "/sys/kernel/config/nullb";

/// How much is read to tell that a device holds nothing, at its beginning and its end.
const LOOKED_AT: u64 = 4 << 20;

/// The most that is worked on.
const MOST_MIB: u64 = 16 << 10;

/// Backings, one a volume; null_blk's end with this value.
pub struct Backings {
    paths: Vec<PathBuf>,
    made: Vec<PathBuf>,
}

impl Backings {
    /// Makes `count` of them ready. What is worked on is written once: memory, or flash, that was never written is faster
    /// to read.
    pub fn prepare(settings: &Settings, count: u16) -> Result<Self> {
        let mut backings = Self { paths: Vec::new(), made: Vec::new() };
        match &settings.backing {
            BackingKind::Device(device) => backings.paths.push(device.clone()),
            BackingKind::Memory(mib) => {
                commands::run("modprobe", &["null_blk", "nr_devices=0"]).map_err(|error| {
                    StudyError::Unavailable(format!("no null_blk in this kernel: {error}"))
                })?;
                for number in 0..count {
                    backings.make(number, *mib, settings.sector_size)?;
                }
            }
        }
        for path in &backings.paths {
            let (whole, count) = (format!("of={}", path.display()), format!("count={}", settings.area_mib));
            commands::run("dd", &["if=/dev/zero", &whole, "bs=1M", "oflag=direct", &count])?;
        }
        Ok(backings)
    }

    fn make(&mut self, number: u16, mib: u32, sector_size: u32) -> Result<()> {
        let name = format!("study{number}");
        let dir = Path::new(CONFIGFS).join(&name);
        fs::create_dir(&dir).map_err(|error| StudyError::file(&dir, error))?;
        self.made.push(dir.clone());
        let set = |file: &str, value: String| {
            let path = dir.join(file);
            fs::write(&path, value).map_err(|error| StudyError::file(&path, error))
        };
        set("size", mib.to_string())?;
        set("blocksize", sector_size.to_string())?;
        set("memory_backed", "1".to_owned())?;
        set("submit_queues", std::thread::available_parallelism()?.to_string())?;
        set("power", "1".to_owned())?;
        commands::run("udevadm", &["settle"])?;
        let index = fs::read_to_string(dir.join("index"))?;
        // Older kernels name the device by its number, newer ones as its directory.
        let candidates = [format!("/dev/{name}"), format!("/dev/nullb{}", index.trim())].map(PathBuf::from);
        let Some(path) = candidates.into_iter().find(|path| path.exists()) else {
            return Err(StudyError::Unavailable(format!("null_blk made no device for {}", dir.display())));
        };
        self.paths.push(path);
        Ok(())
    }

    /// The devices.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl Drop for Backings {
    fn drop(&mut self) {
        for dir in &self.made {
            // Whatever keeps it busy is the failure to report, not this.
            let _ = fs::write(dir.join("power"), "0");
            let _ = fs::remove_dir(dir);
        }
    }
}

/// What a device may hold that is to be overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losable {
    /// Nothing but zeros.
    Nothing,
    /// Data that is no file system, header or partition table: what an earlier run of the same study left.
    OurData,
    /// Anything.
    Anything,
}

/// Refuses a device that somebody uses, and one that holds more than may be lost. Never opens it for writing.
pub fn check(device: &Path, losable: Losable) -> Result<()> {
    let refuse = |why: String| Err(StudyError::Usage(format!("{}: {why}", device.display())));
    let metadata = fs::metadata(device).map_err(|error| StudyError::file(device, error))?;
    if !metadata.file_type().is_block_device() {
        return refuse("not a block device".to_owned());
    }
    // The kernel's own judgement: mounted, swapped on, in an array, under device-mapper, or open by another of us. A
    // disk with such a partition counts.
    let claimed = OpenOptions::new().read(true).custom_flags(nix::libc::O_EXCL).open(device);
    let mut file = match claimed {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
            return refuse("it is in use".to_owned());
        }
        Err(error) => return Err(StudyError::file(device, error)),
    };
    if losable == Losable::Anything {
        return Ok(());
    }
    let holds = |what: &str| format!("it holds {what}, which would be lost: give --force if that is meant");
    if let Some(kind) = signature(device)? {
        return refuse(holds(&kind));
    }
    if losable == Losable::Nothing && has_data(&mut file).map_err(|error| StudyError::file(device, error))? {
        return refuse(holds("data"));
    }
    Ok(())
}

/// The file system, header or partition table that blkid finds.
fn signature(device: &Path) -> Result<Option<String>> {
    let blkid = Command::new("blkid").args(["-p", "-o", "export"]).arg(device).output();
    let found = blkid.map_err(|error| StudyError::Unavailable(format!("blkid does not start: {error}")))?;
    Ok(match found.status.code() {
        Some(0) => kind(&String::from_utf8_lossy(&found.stdout)),
        Some(2) => None,
        // Several at once, above all.
        _ => Some("what blkid cannot tell".to_owned()),
    })
}

fn kind(found: &str) -> Option<String> {
    let of = |key: &str| found.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    of("TYPE=").or_else(|| of("PTTYPE=").map(|kind| format!("a partition table ({kind})")))
}

/// Whether there is anything but zeros at the beginning or the end.
fn has_data(file: &mut (impl Read + Seek)) -> std::io::Result<bool> {
    let end = file.seek(SeekFrom::End(0))?;
    for start in [0, end.saturating_sub(LOOKED_AT)] {
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.by_ref().take(LOOKED_AT).read_to_end(&mut bytes)?;
        if bytes.iter().any(|&byte| byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// MiB of a device that are worked on: as much as no cache of a disk holds, and not all of a large one.
pub fn area_mib(device: &Path) -> Result<u64> {
    let mut file = fs::File::open(device).map_err(|error| StudyError::file(device, error))?;
    match (file.seek(SeekFrom::End(0))? >> 20).min(MOST_MIB) {
        small if small < 16 => Err(StudyError::Usage(format!("{}: smaller than 16 MiB", device.display()))),
        enough => Ok(enough),
    }
}

/// The name under which /sys/class/block has a device.
pub fn disk_name(device: &Path) -> Result<String> {
    let node = fs::canonicalize(device).map_err(|error| StudyError::file(device, error))?;
    node.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .ok_or_else(|| StudyError::Usage(format!("{}: not a block device", device.display())))
}

/// The number under which the kernel traces a disk's requests: of the whole disk, for a partition.
pub fn traced_number(device: &Path) -> Result<u64> {
    let name = disk_name(device)?;
    let class = Path::new("/sys/class/block").join(&name);
    if class.join("partition").exists() {
        let disk = fs::canonicalize(&class)?;
        let number = fs::read_to_string(disk.with_file_name("dev"))?;
        return parse_number(&number).ok_or_else(|| StudyError::Unavailable(format!("{name} has no disk")));
    }
    let number = fs::metadata(device)?.rdev();
    Ok(kernel_number(nix::libc::major(number).into(), nix::libc::minor(number).into()))
}

fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(kernel_number(major.parse().ok()?, minor.parse().ok()?))
}

/// As the kernel packs it, which is not how programs see it.
fn kernel_number(major: u64, minor: u64) -> u64 {
    major << 20 | minor
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn data_is_found_at_either_end_only() {
        let mut bytes = vec![0u8; 3 * LOOKED_AT as usize];
        assert!(!has_data(&mut Cursor::new(&bytes)).unwrap());
        for place in [0, bytes.len() - 1] {
            bytes[place] = 1;
            assert!(has_data(&mut Cursor::new(&bytes)).unwrap());
            bytes[place] = 0;
        }
        assert!(!has_data(&mut Cursor::new(&bytes[..0])).unwrap());
    }

    #[test]
    fn two_file_systems_at_once_are_not_nothing() {
        let made = |program: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(320 << 20).unwrap();
            assert_eq!(signature(file.path()).unwrap(), None);
            commands::run(program, &["-q", &file.path().display().to_string()]).unwrap();
            file
        };
        let (ext4, xfs) = (made("mkfs.ext4"), made("mkfs.xfs"));
        assert_eq!(signature(ext4.path()).unwrap().as_deref(), Some("ext4"));
        // xfs begins in the sectors that ext4 leaves to boot loaders.
        let mut superblock = [0; 512];
        xfs.as_file().read_exact_at(&mut superblock, 0).unwrap();
        ext4.as_file().write_all_at(&superblock, 0).unwrap();
        assert!(signature(ext4.path()).unwrap().is_some());
    }

    #[test]
    fn what_is_no_block_device_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for losable in [Losable::Nothing, Losable::OurData, Losable::Anything] {
            let error = check(file.path(), losable).unwrap_err();
            assert_eq!(error.exit_code(), 64);
            assert!(error.to_string().contains("not a block device"), "{error}");
        }
        assert!(check(Path::new("/dev/null"), Losable::Anything).is_err());
        assert_eq!(check(Path::new("/nonexistent"), Losable::Anything).unwrap_err().exit_code(), 74);
    }

    #[test]
    fn numbers_are_packed_as_in_the_kernel() {
        assert_eq!(parse_number("252:3\n"), Some(252 << 20 | 3));
        assert_eq!(parse_number("252"), None);
    }
}
