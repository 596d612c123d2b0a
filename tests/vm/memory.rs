//! Root looks for keys and plaintext where they must not be: in the memory of daemon and worker, in a core, on the
//! backing, in logs and state.

use std::fs::{self, File};
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::host::{KEY_FILE, PASSPHRASE};
use crate::support::{Disk, Host, core, run};

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
    memchr::memmem::find(haystack, needle).is_some()
}

/// In how many mappings of a process a text is.
pub fn count(pid: u32, needle: &[u8]) -> usize {
    memory(pid).iter().filter(|(_, bytes)| holds(bytes, needle)).count()
}

/// What is looked for: whole secrets, and pieces of 16 bytes of keys, for a piece of a key is a leak too.
pub fn needles(keys: &[(&str, &[u8])], texts: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
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

pub fn assert_process_clean(who: &str, pid: u32, needles: &[(String, Vec<u8>)]) {
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
    let mut host = Host::start();
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

    assert!(core::abort(worker).is_none(), "the worker left a core");
    // The device serves again, by another worker, whose memory is as clean.
    assert!(disk.read(0, 1 << 20).unwrap() == text);
    let second = volume.worker_pid();
    assert_ne!(second, worker);
    assert_process_clean("the second worker", second, &secrets);
    assert_process_clean("the daemon, after it", host.daemon_pid(), &secrets);
    drop(disk);
    volume.close();
    assert_process_clean("the daemon, after closing", host.daemon_pid(), &secrets);
    assert!(core::abort(host.daemon_pid()).is_none(), "the daemon left a core");
    host.wait_for_daemon();

    let stored = fs::read(&backing).unwrap();
    assert_clean("the backing", &stored, &keys);
    assert!(!holds(&stored, PLAINTEXT), "plaintext is on the backing");
    assert_clean("the daemon's log", host.log().as_bytes(), &secrets);
    for file in run(&format!("find {} {} -type f", host.path("state"), host.path("run"))).lines() {
        assert_clean(file, &fs::read(file).unwrap(), &secrets);
    }
}

/// What root gets by force: the cores of a worker and a daemon that were made dumpable.
#[test]
fn forced_cores_hold_no_keys_and_no_plaintext() {
    let mut host = Host::start();
    let volume = host.create("forced", &host.image("backing", 48 << 20), &[]);
    volume.add_recovery();
    let disk = Disk::open(&volume.open(&[]), 0);
    let text: Vec<u8> = PLAINTEXT.iter().copied().cycle().take(1 << 20).collect();
    disk.write(0, &text).unwrap();
    assert!(disk.read(0, 1 << 20).unwrap() == text);
    let (dek, kek) = (volume.dek(), kek(&host));
    let secrets = needles(
        &[("the DEK", &dek), ("the KEK", &kek)],
        &[
            ("the passphrase", PASSPHRASE.as_bytes()),
            ("the key file", KEY_FILE.as_bytes()),
            ("plaintext", PLAINTEXT),
        ],
    );
    let worker = core::force(volume.worker_pid());
    // The device serves again, by another worker.
    assert!(disk.read(0, 1 << 20).unwrap() == text);
    drop(disk);
    let daemon = core::force(host.daemon_pid());
    for (who, core) in [("worker", &worker), ("daemon", &daemon)] {
        assert!(
            core.starts_with(b"\x7fELF") && core.len() > 1 << 18,
            "{who}: a core of {} bytes",
            core.len()
        );
        assert_clean(&format!("the {who}'s core"), core, &secrets);
    }
    host.wait_for_daemon();
    host.start_daemon();
    host.blkseal(&["close", "forced"]);
}

/// Who takes over a worker or the daemon meets the filter of system calls, and has few capabilities.
#[test]
fn processes_are_confined() {
    let host = Host::start();
    let volume = host.create("confined", &host.image("backing", 32 << 20), &[]);
    volume.open(&[]);
    let refused = i64::from(-libc::EPERM);
    let inet_socket = [libc::AF_INET, libc::SOCK_STREAM, 0].map(|n| u64::from(n.unsigned_abs()));
    let dumpable = [u64::from(libc::PR_SET_DUMPABLE.unsigned_abs()), 1, 0];
    let own_pid = |pid| core::call(pid, libc::SYS_getpid, [0; 3]);
    let (worker, daemon) = (volume.worker_pid(), host.daemon_pid());
    assert_eq!(
        [own_pid(worker), own_pid(daemon)],
        [i64::from(worker), i64::from(daemon)],
        "calls are made at all"
    );
    for (call, arguments) in
        [(libc::SYS_socket, inet_socket), (libc::SYS_execve, [0; 3]), (libc::SYS_prctl, dumpable)]
    {
        assert_eq!(core::call(worker, call, arguments), refused, "the worker makes system call {call}");
    }
    for process in [worker, daemon] {
        assert_eq!(core::call(process, libc::SYS_swapon, [0; 3]), refused, "without the filter it is EFAULT");
    }
    let capabilities = |pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    // A worker sees no file of the host's, of this daemon's or of another volume's; and it has no descriptor but its own.
    let root = format!("/proc/{worker}/root");
    assert_eq!(
        run(&format!("ls -A {root}")).split_whitespace().collect::<Vec<_>>(),
        ["dev", "proc", "run", "sys"]
    );
    for place in ["dev", "proc", "sys"] {
        assert_eq!(run(&format!("ls -A {root}/{place}")), "", "{place}");
    }
    // PF_MEMALLOC_NOIO of linux/sched.h: what they allocate never waits for writes to the devices that they serve.
    for process in [worker, daemon] {
        for task in fs::read_dir(format!("/proc/{process}/task")).unwrap() {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
            let flags: u64 = stat.rsplit(") ").next().unwrap().split(' ').nth(6).unwrap().parse().unwrap();
            assert!(flags & 0x0008_0000 != 0, "a thread of {process} is no I/O flusher: {stat}");
        }
    }
    const CAP_SYS_ADMIN: u64 = 1 << 21; // linux/capability.h
    assert_eq!(capabilities(worker), CAP_SYS_ADMIN);
    assert_eq!(capabilities(daemon).count_ones(), 8);
    volume.close();
}

/// Every descriptor of a process that leads to memory: its number, and what can be seen there.
fn memory_behind_descriptors(pid: u32) -> Vec<(i32, Vec<u8>)> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let opened = |call: libc::c_long, a: i64, b: i64| {
        // SAFETY: both calls that are made take numbers and give a descriptor.
        let fd = i32::try_from(unsafe { libc::syscall(call, a, b, 0) }).unwrap();
        // SAFETY: the kernel has just given this descriptor to us alone.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let process = opened(libc::SYS_pidfd_open, pid.into(), 0).unwrap();
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let numbers = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<i32>().unwrap());
    let mut found = Vec::new();
    for number in numbers.collect::<Vec<_>>() {
        let Some(fd) = opened(libc::SYS_pidfd_getfd, process.as_raw_fd().into(), number.into()) else {
            continue;
        };
        let null = std::ptr::null_mut();
        let (read, shared) = (libc::PROT_READ, libc::MAP_SHARED);
        let length = File::from(fd.try_clone().unwrap()).metadata().map_or(0, |file| file.len() as usize);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let page = unsafe { libc::mmap(null, length.clamp(1, 1 << 16), read, shared, fd.as_raw_fd(), 0) };
        if page != libc::MAP_FAILED && length > 0 {
            // SAFETY: the mapping has that many bytes, within the file, and stays until this process ends.
            let bytes = unsafe { std::slice::from_raw_parts(page.cast::<u8>(), length.min(1 << 16)) };
            found.push((number, bytes.to_vec()));
        }
    }
    found
}

/// Three system calls that gave root every key, where a descriptor of the key's pages stayed open.
#[test]
fn no_descriptor_leads_root_to_a_key() {
    let host = Host::start();
    let volume = host.create("handed", &host.image("backing", 32 << 20), &[]);
    volume.add_recovery();
    volume.open(&[]);
    let (dek, kek) = (volume.dek(), kek(&host));
    let keys = needles(&[("the DEK", &dek), ("the KEK", &kek)], &[]);
    for (who, pid) in [("worker", volume.worker_pid()), ("daemon", host.daemon_pid())] {
        for (number, bytes) in memory_behind_descriptors(pid) {
            assert_clean(&format!("the {who}'s descriptor {number}"), &bytes, &keys);
        }
        // A key may be wrapped, or a schedule: no descriptor of secret memory is open at all.
        let listed = run(&format!("ls -l /proc/{pid}/fd"));
        assert!(!listed.contains("secretmem"), "{who}: {listed}");
    }
    // The search sees what is there.
    let planted: Vec<u8> = (0..64u8).map(|n| n.wrapping_mul(73) ^ 0x35).collect();
    // SAFETY: makes a new descriptor of a name that lives for the call.
    let fd = unsafe { libc::memfd_create(c"planted".as_ptr(), 0) };
    // SAFETY: the kernel has just given this descriptor to us alone.
    let file: File = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
    file.write_all_at(&planted, 0).unwrap();
    assert!(memory_behind_descriptors(std::process::id()).iter().any(|(_, bytes)| *bytes == planted));
    volume.close();
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
