//! Flush, FUA and discard at the backing, as dm-log-writes saw them arrive there.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Output;

use crate::support::shell::command;
use crate::support::{Disk, Host, Pattern, Volume, run};

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// A dm-log-writes device over two loop devices. Ends with this value.
struct Log {
    name: String,
    loops: [String; 2],
    log: String,
    marks: Cell<u64>,
}

/// A request that reached the backing: place and length in units of 512 bytes, and flags.
struct Entry {
    first: u64,
    count: u64,
    flags: u64,
}

impl Log {
    fn new(host: &Host, bytes: u64) -> Self {
        let (data, log) = (host.image("logged", bytes), host.image("log", bytes * 2));
        let attach = |path: &str| run(&format!("losetup --show -f {path}")).trim().to_owned();
        let loops = [attach(&data), attach(&log)];
        let name = "vmtest-log".to_owned();
        let table = format!("0 {} log-writes {} {}", bytes / 512, loops[0], loops[1]);
        run("modprobe dm-log-writes");
        crate::support::run_in(
            std::process::Command::new("dmsetup").args(["create", &name, "--table", &table]),
        );
        Self { name, loops, log, marks: Cell::new(0) }
    }

    fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    /// All requests so far, but for those that no flush has followed yet: they are logged when one does.
    fn entries(&self) -> Vec<Entry> {
        run(&format!("dmsetup message {} 0 mark end", self.name));
        self.marks.set(self.marks.get() + 1);
        // The kernel writes its log in a thread of its own.
        for _ in 0..100 {
            let entries = self.read_log();
            if entries.iter().filter(|entry| entry.flags & MARK != 0).count() as u64 == self.marks.get() {
                return entries;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("the log does not come to its mark");
    }

    /// Layout: Documentation/admin-guide/device-mapper/log-writes.rst and dm-log-writes.c.
    fn read_log(&self) -> Vec<Entry> {
        run(&format!("blockdev --flushbufs {}", self.loops[1]));
        let file = File::open(&self.log).unwrap();
        let word = |offset: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, offset).unwrap();
            u64::from_le_bytes(bytes)
        };
        if word(0) != 0x006a_7366_7773_6872 {
            return Vec::new();
        }
        let (count, sector_bytes) = (word(16), word(24) & 0xffff_ffff);
        let mut offset = sector_bytes;
        let mut entries = Vec::new();
        for _ in 0..count {
            let entry = Entry { first: word(offset), count: word(offset + 8), flags: word(offset + 16) };
            let data = if entry.flags & DISCARD != 0 { 0 } else { entry.count * 512 };
            offset += sector_bytes + data;
            entries.push(entry);
        }
        entries
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // After a failed assertion the volume is still open; the kernel removes all of it once it is not.
        command(&format!("dmsetup remove --deferred {}", self.name)).status().ok();
        for device in &self.loops {
            command(&format!("losetup -d {device}")).status().ok();
        }
    }
}

/// First LBA of the data behind an attached header.
const DATA: u64 = (16 << 20) / 512;

fn opened<'a>(host: &'a Host, log: &Log, options: &[&str]) -> Volume<'a> {
    let volume = host.create("logged", &log.path(), &["--force", "--yes"]);
    volume.open(options);
    volume
}

#[test]
fn a_flush_and_a_fua_write_reach_the_backing() {
    let host = Host::start();
    let log = Log::new(&host, 48 << 20);
    let volume = opened(&host, &log, &[]);
    let before = log.entries().len();
    let data = Pattern::new(1).bytes(8192);

    Disk::open(&volume.link(), 0).write(4096, &data).unwrap();
    let written = &log.entries()[before..];
    assert!(written.iter().all(|e| e.flags & (FLUSH | FUA) == 0), "nobody asked for durability");

    Disk::open(&volume.link(), 0).sync().unwrap();
    let flushed = &log.entries()[before..];
    assert!(flushed.iter().any(|e| e.flags & FLUSH != 0), "the flush arrived");
    assert!(flushed.iter().any(|e| e.first == DATA + 8 && e.count == 16), "the write arrived before it");

    let before = log.entries().len();
    Disk::open(&volume.link(), libc::O_DSYNC).write(65536, &data).unwrap();
    let durable = &log.entries()[before..];
    // The block layer flushes after such a write, too; that the write is durable by itself is ours.
    assert!(
        durable.iter().any(|e| e.first == DATA + 128 && e.flags & FUA != 0),
        "the FUA write arrived as one"
    );
    let before = log.entries().len();
    Disk::open(&volume.link(), 0).write(65536, &data).unwrap();
    Disk::open(&volume.link(), 0).sync().unwrap();
    assert!(log.entries()[before..].iter().all(|e| e.flags & FUA == 0), "nobody asked for FUA");
    volume.close();
}

#[test]
fn the_device_announces_a_volatile_cache() {
    let host = Host::start();
    let volume = host.create("cache", &host.image("backing", 32 << 20), &[]);
    volume.open(&[]);
    let attribute = |name: &str| {
        let path = format!("/sys/block/{}/queue/{name}", volume.kernel_name());
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert_eq!(attribute("write_cache"), "write back", "else nobody would ever flush");
    assert_eq!(attribute("fua"), "1");
    volume.close();
}

/// Discards 2 MiB at 1 MiB, and flushes, for only then dm-log-writes logs it.
fn discard(path: &Path) -> Output {
    let output =
        command(&format!("blkdiscard -f -o 1048576 -l 2097152 {}", path.display())).output().unwrap();
    Disk::open(path, 0).sync().unwrap();
    output
}

#[test]
fn discard_is_off_unless_allowed() {
    let host = Host::start();
    let log = Log::new(&host, 48 << 20);
    let volume = opened(&host, &log, &[]);
    let before = log.entries().len();
    assert!(!discard(&volume.link()).status.success());
    assert!(log.entries()[before..].iter().all(|e| e.flags & DISCARD == 0), "no discard reached the backing");
    volume.close();

    let path = volume.open(&["--allow-discards"]);
    let before = log.entries().len();
    let output = discard(&path);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries = &log.entries()[before..];
    let (first, end) = (DATA + 2048, DATA + 2048 + 4096);
    let discarded: u64 = entries.iter().filter(|e| e.flags & DISCARD != 0).map(|e| e.count).sum();
    assert_eq!(discarded, 4096, "all of the range, and no more");
    assert!(
        entries
            .iter()
            .filter(|e| e.flags & DISCARD != 0)
            .all(|e| e.first >= first && e.first + e.count <= end)
    );
    volume.close();
}

#[test]
fn discard_punches_holes_into_a_file() {
    use std::os::unix::fs::MetadataExt;
    let host = Host::start();
    let backing = host.image("backing", 48 << 20);
    let volume = host.create("holes", &backing, &[]);
    let path = volume.open(&["--allow-discards"]);
    Disk::open(&path, 0).write(0, &Pattern::new(2).bytes(8 << 20)).unwrap();
    let blocks = || std::fs::metadata(&backing).unwrap().blocks();
    let full = blocks();
    run(&format!("blkdiscard -f -o 0 -l 8388608 {}", path.display()));
    assert!(blocks() + (7 << 20) / 512 < full, "the file gave its blocks back");
    volume.close();
}

#[test]
fn zeroes_are_written_encrypted_and_read_as_zeroes() {
    let host = Host::start();
    let backing = host.image("backing", 48 << 20);
    let volume = host.create("zeroes", &backing, &[]);
    let path = volume.open(&[]);
    Disk::open(&path, 0).write(0, &Pattern::new(3).bytes(4 << 20)).unwrap();
    run(&format!("blkdiscard -z -f -o 4096 -l 3145728 {}", path.display()));
    let counters = volume.status()["device"]["counters"].clone();
    assert!(counters["write_zeroes"].as_u64() > Some(0), "the device does it itself: {counters}");
    let zeroes = Disk::open(&path, 0).read(4096, 3 << 20).unwrap();
    assert!(zeroes.iter().all(|&byte| byte == 0));
    let mut stored = vec![0; 3 << 20];
    File::open(&backing).unwrap().read_exact_at(&mut stored, (16 << 20) + 4096).unwrap();
    assert!(!stored.chunks(16).any(|block| block == [0; 16]), "no block of zeros is on the backing");
    volume.close();
}
