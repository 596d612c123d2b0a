//! blkseal and dm-crypt read what the other wrote, with the same key.

use std::path::Path;

use crate::support::{Disk, Host, Pattern};

/// Larger than the queue's buffer, so that the block layer must split requests.
const LARGEST: u64 = 1 << 20;

/// Writes at random places, of random lengths from one sector up, also the first and the last sectors, and keeps
/// `shadow` equal.
fn scribble(path: &Path, shadow: &mut [u8], sector: u64, seed: u64) {
    let disk = Disk::open(path, 0);
    assert_eq!(disk.bytes, shadow.len() as u64, "both sides see a device of the same size");
    let sectors = disk.bytes / sector;
    let mut pattern = Pattern::new(seed);
    let mut extents = vec![(0, 1), (sectors - 1, 1), (0, LARGEST / sector), (sectors - 17, 17)];
    for _ in 0..60 {
        let largest = if pattern.below(4) == 0 { LARGEST } else { 32 << 10 };
        let count = 1 + pattern.below(largest / sector);
        extents.push((pattern.below(sectors - count), count));
    }
    for (first, count) in extents {
        let data = pattern.bytes((count * sector) as usize);
        disk.write(first * sector, &data).unwrap();
        let start = (first * sector) as usize;
        shadow[start..start + data.len()].copy_from_slice(&data);
    }
    disk.sync().unwrap();
}

fn assert_holds(path: &Path, shadow: &[u8]) {
    let found = Disk::open(path, 0).read_all();
    let differs = found.iter().zip(shadow).position(|(a, b)| a != b);
    assert!(differs.is_none(), "{} differs from what was written at byte {differs:?}", path.display());
}

fn both_ways(sector: u64, detached: bool) {
    let host = Host::start();
    let backing = host.image("backing", 40 << 20);
    let sector_size = sector.to_string();
    let header = host.path("header");
    let mut options = vec!["--sector-size", &sector_size];
    if detached {
        options.extend(["--header", &header]);
    }
    let volume = host.create("equal", &backing, &options);
    volume.add_recovery();

    let path = volume.open(&["--max-io", "128K"]);
    let mut shadow = Disk::open(&path, 0).read_all();
    scribble(&path, &mut shadow, sector, sector);
    assert_holds(&path, &shadow);
    volume.close();

    volume.with_dm_crypt(|mapper| {
        assert_holds(mapper, &shadow);
        scribble(mapper, &mut shadow, sector, sector + 1);
    });

    assert_holds(&volume.open(&[]), &shadow);
    volume.close();
}

#[test]
fn sectors_of_4096_with_the_header_attached() {
    both_ways(4096, false);
}

#[test]
fn sectors_of_512_with_the_header_attached() {
    both_ways(512, false);
}

#[test]
fn sectors_of_4096_with_a_detached_header() {
    both_ways(4096, true);
}

#[test]
fn sectors_of_512_with_a_detached_header() {
    both_ways(512, true);
}
