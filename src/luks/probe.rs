//! What is on a backing already, as libblkid sees it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libblkid_rs::{BlkidErr, BlkidProbe, BlkidProbeRet, BlkidSublks, BlkidSublksFlags};

use super::LuksError;

/// Partition tables and superblocks that may not be found by their magic numbers alone lie within so many bytes of
/// either end.
const EDGE: u64 = 1024 * 1024;

/// The names of the file systems, RAID members, encrypted volumes and partition tables found, damaged ones too.
pub fn signatures(file: &File, path: &Path) -> Result<Vec<String>, LuksError> {
    let failed = |e| failed("look at the content of", path, e);
    let mut found = Vec::new();
    let mut probe = new_probe(file).map_err(failed)?;
    while matches!(probe.do_probe().map_err(failed)?, BlkidProbeRet::Success) {
        // A chain that ends without either tag found nothing.
        let name = probe.lookup_value("TYPE").or_else(|_| probe.lookup_value("PTTYPE"));
        found.extend(name.ok().filter(|name| !found.contains(name)));
    }
    Ok(found)
}

/// Removes every signature from a backing of `size` bytes, and with it the start and the end of what it held.
pub fn erase(file: &File, path: &Path, size: u64) -> Result<(), LuksError> {
    let mut probe = new_probe(file).map_err(|e| failed("look at the content of", path, e))?;
    while matches!(probe.do_probe().map_err(|e| failed("erase", path, e))?, BlkidProbeRet::Success) {
        probe.do_wipe(false).map_err(|e| failed("erase", path, e))?;
    }
    let edge = EDGE.min(size);
    zero(file, 0, edge)
        .and_then(|()| zero(file, size - edge, edge))
        .and_then(|()| file.sync_all())
        .map_err(|e| LuksError::io("erase", path, e))
}

/// Writes `length` zeroes at `offset`.
pub fn zero(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeroes = vec![0; EDGE as usize];
    let mut done = 0;
    while done < length {
        let step = EDGE.min(length - done);
        file.write_all_at(&zeroes[..step as usize], offset + done)?;
        done += step;
    }
    Ok(())
}

fn new_probe(file: &File) -> Result<BlkidProbe, BlkidErr> {
    let mut probe = BlkidProbe::new()?;
    probe.set_device(file.as_raw_fd(), 0, 0)?;
    probe.enable_superblocks(true)?;
    probe.set_superblock_flags(BlkidSublksFlags::new(vec![
        BlkidSublks::Type,
        BlkidSublks::Magic,
        BlkidSublks::Badcsum,
    ]))?;
    probe.enable_partitions(true)?;
    Ok(probe)
}

fn failed(action: &'static str, path: &Path, error: BlkidErr) -> LuksError {
    LuksError::Library { action: action.into(), path: path.to_owned(), detail: error.to_string() }
}
