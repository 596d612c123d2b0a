//! Root looks for keys and plaintext where they must not be: in the memory of daemon and worker, in a core, on the
//! backing, in logs and state.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::host::{KEY_FILE, PASSPHRASE};
use crate::support::{Disk, Host, run};

const PLAINTEXT: &[u8] = b"this sentence is plaintext and must not be found below the device";

/// All memory of a process that root can read, mapping by mapping, with the mapping's line of `maps`.
fn memory(pid: u32) -> Vec<(String, Vec<u8>)> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::io::BufReader::new(File::open(format!("/proc/{pid}/maps")).unwrap());
    maps.lines()
        .map(Result::unwrap)
        .map(|line| {
            let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let bytes = read_pages(&memory, address(start), address(end));
            (line, bytes)
        })
        .collect()
}

/// The pages from `start` to `end` that can be read; secret memory and device mappings cannot.
fn read_pages(memory: &File, start: u64, end: u64) -> Vec<u8> {
    const PIECE: usize = 1 << 20;
    let mut found = Vec::new();
    let mut address = start;
    while address < end {
        let mut piece = vec![0; PIECE.min((end - address) as usize)];
        let read = memory.read_at(&mut piece, address).unwrap_or(0);
        found.extend_from_slice(&piece[..read]);
        // A page that cannot be read is left out; the search goes on behind it.
        address += if read == 0 { 4096 } else { read as u64 };
    }
    found
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        if haystack[from + at..].starts_with(needle) {
            return true;
        }
        from += at + 1;
    }
    false
}

/// What is looked for: whole secrets, and pieces of 16 bytes of keys, for a piece of a key is a leak too.
fn needles(keys: &[(&str, &[u8])], texts: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    let pieces = keys.iter().flat_map(|(name, key)| {
        key.chunks(16).enumerate().map(move |(n, piece)| (format!("{name}, piece {n}"), piece.to_vec()))
    });
    pieces.chain(texts.iter().map(|(name, text)| ((*name).to_owned(), text.to_vec()))).collect()
}

fn assert_clean(place: &str, bytes: &[u8], needles: &[(String, Vec<u8>)]) {
    for (name, needle) in needles {
        assert!(!holds(bytes, needle), "{name} is in {place}");
    }
}

fn assert_process_clean(who: &str, pid: u32, needles: &[(String, Vec<u8>)]) {
    let mappings = memory(pid);
    let total: usize = mappings.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(total > 1 << 20, "{who}: only {total} bytes could be read, so the search means nothing");
    for (line, bytes) in &mappings {
        assert_clean(&format!("{who}: {line}"), bytes, needles);
    }
}

/// The KEK of the host's provider, taken out of its file as only its key file allows.
fn kek(host: &Host) -> Vec<u8> {
    use blkseal::provider::KeyProvider;
    use blkseal::provider::native::NativeProvider;
    use ublk_targets::secret::Secret;
    let mut seal = Secret::zeroed(KEY_FILE.len()).unwrap();
    seal.expose_mut().copy_from_slice(KEY_FILE.as_bytes());
    let file = find(host.dir.path(), "keys");
    let provider = NativeProvider::new("keys".to_owned().try_into().unwrap(), file);
    provider.unlock(&seal).unwrap();
    let id = provider.list_keks().unwrap()[0].id.clone();
    provider.fetch_kek(&id).unwrap().expose().to_vec()
}

/// The provider's file below `dir`.
fn find(dir: &Path, name: &str) -> std::path::PathBuf {
    let found = run(&format!("find {} -type f -name *{name}*", dir.display()));
    found.lines().next().unwrap_or_else(|| panic!("no file of {name} in {}", dir.display())).into()
}

#[test]
fn the_search_finds_what_is_there() {
    // Pieces put together at run time, so that no constant of this program holds the whole.
    let planted: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(37) ^ 0x5c).collect();
    let mappings = memory(std::process::id());
    assert!(mappings.iter().any(|(_, bytes)| holds(bytes, &planted)));
}

#[test]
fn keys_and_plaintext_are_nowhere() {
    let host = Host::start();
    let backing = host.image("backing", 48 << 20);
    let volume = host.create("secret", &backing, &[]);
    volume.add_recovery();
    let path = volume.open(&[]);
    let (dek, kek) = (volume.dek(), kek(&host));
    assert_eq!((dek.len(), kek.len()), (64, 32));

    // All kinds of requests have just run, and the volume is still being written to.
    let disk = Disk::open(&path, 0);
    let text: Vec<u8> = PLAINTEXT.iter().copied().cycle().take(1 << 20).collect();
    disk.write(0, &text).unwrap();
    assert!(disk.read(0, 1 << 20).unwrap() == text);
    disk.sync().unwrap();

    let keys = needles(&[("the DEK", &dek), ("the KEK", &kek)], &[]);
    let secrets = needles(
        &[("the DEK", &dek), ("the KEK", &kek)],
        &[("the passphrase", PASSPHRASE.as_bytes()), ("the key file", KEY_FILE.as_bytes())],
    );
    let worker = volume.worker_pid();
    assert_process_clean("the daemon", host.daemon_pid(), &secrets);
    assert_process_clean("the worker", worker, &secrets);

    fs::write("/proc/sys/kernel/core_pattern", host.path("core.%p")).unwrap();
    run(&format!("prlimit --pid {worker} --core=unlimited:unlimited"));
    run(&format!("kill -ABRT {worker}"));
    std::thread::sleep(std::time::Duration::from_secs(2));
    let core = host.path(&format!("core.{worker}"));
    if let Ok(core) = fs::read(&core) {
        assert_clean("the worker's core", &core, &secrets);
        assert!(!holds(&core, PLAINTEXT), "plaintext is in the worker's core");
    }
    // The device serves again, by another worker, whose memory is as clean.
    assert!(disk.read(0, 1 << 20).unwrap() == text);
    let second = volume.worker_pid();
    assert_ne!(second, worker);
    assert_process_clean("the second worker", second, &secrets);
    assert_process_clean("the daemon, after it", host.daemon_pid(), &secrets);
    drop(disk);
    volume.close();
    assert_process_clean("the daemon, after closing", host.daemon_pid(), &secrets);

    let stored = fs::read(&backing).unwrap();
    assert_clean("the backing", &stored, &keys);
    assert!(!holds(&stored, PLAINTEXT), "plaintext is on the backing");
    assert_clean("the daemon's log", host.log().as_bytes(), &secrets);
    for file in run(&format!("find {} {} -type f", host.path("state"), host.path("run"))).lines() {
        assert_clean(file, &fs::read(file).unwrap(), &secrets);
    }
}

#[test]
fn key_pages_cannot_be_read_even_by_root() {
    let host = Host::start();
    let volume = host.create("sealed", &host.image("backing", 32 << 20), &[]);
    volume.open(&[]);
    assert_eq!(volume.status()["device"]["key_memory"], "memfd_secret");
    let maps = fs::read_to_string(format!("/proc/{}/maps", volume.worker_pid())).unwrap();
    let line = maps.lines().find(|line| line.contains("secretmem")).expect("the worker has secret pages");
    let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
    let memory = File::open(format!("/proc/{}/mem", volume.worker_pid())).unwrap();
    assert!(memory.read_at(&mut [0; 64], start).is_err(), "{line}");
    volume.close();
}
