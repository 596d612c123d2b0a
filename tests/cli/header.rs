//! Headers worked on by processes of their own, which can be killed. The oracle is the stock `cryptsetup` binary.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blkseal::luks::{self, Access, Files, FormatOptions, Header, LuksError, Place, Token, TokenError};
use blkseal::provider::wrap;
use tempfile::TempDir;
use ublk_targets::secret::{Dek, Kek, Secret};

/// What never comes counts as failed after this.
const BOUND: Duration = Duration::from_secs(120);

struct Bench(TempDir);

impl Bench {
    /// None where this process may not lock as much memory as the processes do that are to be tested.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("NOT RUN, for it takes root: processes that lock all of their memory");
            return None;
        }
        luks::aside::work_aside(Path::new(env!("CARGO_BIN_EXE_blkseal")));
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn image(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        File::create(&path).unwrap().set_len(20 << 20).unwrap();
        path
    }

    fn volume(&self) -> (Header, Dek) {
        let dek = Dek::generate().unwrap();
        let place = Place::attached(self.image("volume"));
        let header = luks::prepare(&place, &FormatOptions::default(), &dek, &token(&dek, "kek-1"))
            .unwrap()
            .write()
            .unwrap();
        (header, dek)
    }
}

fn token(dek: &Dek, kek_id: &str) -> Token {
    let wrapped_dek = wrap::wrap(&Kek::generate().unwrap(), dek).unwrap();
    Token { provider: "vault".parse().unwrap(), kek_id: kek_id.parse().unwrap(), wrapped_dek }
}

fn secret(text: &str) -> Secret {
    let mut secret = Secret::zeroed(text.len()).unwrap();
    secret.expose_mut().copy_from_slice(text.as_bytes());
    secret
}

fn flock(path: &Path) -> File {
    let reader = File::open(path).unwrap();
    // SAFETY: locks an open file; no memory is involved.
    assert_eq!(unsafe { libc::flock(reader.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    reader
}

/// The processes that work on a header for this one.
fn helpers() -> Vec<u32> {
    let own = std::process::id().to_string();
    let is_helper = |pid: &u32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1).map(str::to_owned));
        parent.as_deref() == Some(&own) && read("cmdline").contains("header")
    };
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_helper).collect()
}

#[test]
fn all_that_is_done_with_a_header_is_done_aside() {
    let Some(bench) = Bench::new() else { return };
    let (mut header, dek) = bench.volume();
    let place = header.place.clone();
    assert_eq!(luks::open(&place).unwrap(), luks::look(&place).unwrap());
    header.verify(&dek).unwrap();
    let other = header.verify(&Dek::generate().unwrap());
    assert!(matches!(&other, Err(LuksError::WrongKey(path)) if *path == place.backing), "{other:?}");
    header.verify(&dek).expect("the key was lent, and is still there");

    header.replace_token(token(&dek, "kek-2")).unwrap();
    assert_eq!(luks::look(&place).unwrap(), header);
    assert!(matches!(header.clone().release(), Err(LuksError::NoPassphrase(_))));
    let slot = header.recovery_add(&dek, &secret("rescue")).unwrap();
    assert_eq!(header.keyslots.len(), 1);
    assert!(matches!(header.recovery_remove(slot + 1), Err(LuksError::NoSuchSlot { .. })));

    let adopted = luks::unlock(&place, &secret("rescue")).err().unwrap();
    assert!(matches!(adopted, LuksError::Adopted(_)), "{adopted}");
    header.release().unwrap();
    let released = luks::open(&place).unwrap_err();
    assert!(matches!(released, LuksError::Token { source: TokenError::Missing, .. }), "{released}");
    let wrong = luks::unlock(&place, &secret("wrong")).err().unwrap();
    assert!(matches!(wrong, LuksError::WrongPassphrase(_)), "{wrong}");
    let unlocked = luks::unlock(&place, &secret("rescue")).unwrap();
    assert!(unlocked.dek().expose() == dek.expose());
    let mut header = unlocked.adopt(&token(&dek, "kek-3")).unwrap();
    header.recovery_remove(slot).unwrap();
    assert_eq!(luks::look(&place).unwrap(), header);

    fs::remove_file(&place.backing).unwrap();
    let missing = luks::open(&place).unwrap_err();
    assert!(matches!(missing, LuksError::Missing(_)), "{missing}");
}

#[test]
fn open_files_are_handed_on_whatever_their_paths_lead_to() {
    let Some(bench) = Bench::new() else { return };
    let (header, dek) = bench.volume();
    let place = header.place.clone();
    let files = Arc::new(Files::open(&place).unwrap());
    let moved = bench.0.path().join("moved");
    fs::rename(&place.backing, &moved).unwrap();
    bench.volume();
    let mut header = luks::open_by(&place, Access::Through(files)).unwrap();
    header.verify(&dek).unwrap();
    header.replace_token(token(&dek, "kek-2")).unwrap();
    assert_eq!(luks::look(&Place::attached(&moved)).unwrap().token, header.token);
}

#[test]
fn a_process_that_hangs_is_killed_and_the_next_one_works() {
    let Some(bench) = Bench::new() else { return };
    let (header, dek) = bench.volume();
    let path = header.place.backing.clone();
    // While it waits for this it is stopped, as if its disk did not answer.
    let lock = flock(&path);
    let worker = std::thread::spawn({
        let header = header.clone();
        move || header.verify(&dek).map(|()| dek)
    });
    let begun = Instant::now();
    let of_this = |pid: &u32| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == path)
    };
    let pid = loop {
        match helpers().into_iter().find(of_this) {
            Some(pid) => break pid,
            None => assert!(begun.elapsed() < BOUND, "no process works on it"),
        }
    };
    // SAFETY: stops a process that this one waits for.
    assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGSTOP) }, 0);
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    assert_eq!(read("oom_score_adj").trim(), "1000", "it is the first to go where memory runs out");
    drop(lock);
    let error = worker.join().unwrap().err().unwrap();
    assert!(matches!(&error, LuksError::NoAnswer(named) if *named == path), "{error}");
    while helpers().contains(&pid) {
        assert!(begun.elapsed() < BOUND, "it is not reaped");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It is reaped by a thread, which tells the others at the end.
    while matches!(luks::open(&header.place), Err(LuksError::NoAnswer(_))) {
        assert!(begun.elapsed() < BOUND, "nobody is sent there again");
    }
    assert_eq!(luks::open(&header.place).unwrap(), header);
}

#[test]
fn who_waits_for_a_lock_stops_nobody_else() {
    let Some(bench) = Bench::new() else { return };
    let (locked, dek) = bench.volume();
    let other = Place::attached(bench.image("other"));
    luks::prepare(&other, &FormatOptions::default(), &dek, &token(&dek, "kek-1")).unwrap().write().unwrap();
    let lock = flock(&locked.place.backing);
    let waiter = std::thread::spawn({
        let locked = locked.clone();
        move || luks::open(&locked.place)
    });
    luks::open(&other).unwrap().verify(&dek).unwrap();
    let error = waiter.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("another process has locked it (flock)"), "{error}");
    drop(lock);
    luks::open(&locked.place).unwrap();
}

#[test]
fn the_process_ends_when_nobody_waits_for_it() {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    drop(ours);
    for input in [Stdio::from(std::os::fd::OwnedFd::from(theirs)), Stdio::null()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blkseal"));
        let output = command.arg("header").stdin(input).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(71) && text.lines().count() >= 1, "{text}");
    }
}
