//! The files by which workers tell udev of devices (`udev/59-blkseal.rules`): those of devices that are gone are removed, so that
//! no other device is taken for them.

use std::fs;
use std::path::Path;

/// Removes what `directory` has of devices that are not there.
pub(super) fn clean(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_there = match (name.strip_prefix("diskseq-"), name.strip_prefix("ublkb")) {
            (Some(sequence), _) => has_sequence(sequence),
            // As long as its device starts, for which the character device is there.
            (None, Some(number)) => Path::new("/sys/class/ublk-char").join(format!("ublkc{number}")).exists(),
            _ => continue,
        };
        if !is_there && let Err(error) = fs::remove_file(entry.path()) {
            log::warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}

/// Whether a block device has the disk sequence number.
fn has_sequence(sequence: &str) -> bool {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let sequences = devices.filter_map(|device| fs::read_to_string(device.path().join("diskseq")).ok());
    sequences.into_iter().any(|found| found.trim() == sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_devices_that_are_gone_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["diskseq-18446744073709551615", "ublkb4000000000", "other"];
        files.iter().for_each(|name| fs::write(directory.path().join(name), "").unwrap());
        clean(directory.path());
        let left = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["other"]);
    }
}
