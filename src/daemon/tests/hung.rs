//! One disk that does not answer, or that somebody else has locked, stops nobody else.

use std::collections::HashSet;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Condvar, LazyLock};

use super::*;
use crate::control::{KekCreate, KekDestroy, KekList, KekRevoke, VolumeState};
use crate::luks::{Header, LuksError};

/// The backings that do not answer now.
static HUNG: LazyLock<(Mutex<HashSet<PathBuf>>, Condvar)> = LazyLock::new(Default::default);

/// A backing that does not answer, until dropped.
struct Hung(PathBuf);

impl Hung {
    fn new(backing: &Path) -> Self {
        HUNG.0.lock().unwrap().insert(backing.to_owned());
        Self(backing.to_owned())
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        HUNG.0.lock().unwrap().remove(&self.0);
        HUNG.1.notify_all();
    }
}

/// Hangs where the disk does.
fn wait_for(backing: &Path) {
    let hung = HUNG.0.lock().unwrap();
    drop(HUNG.1.wait_while(hung, |hung| hung.contains(backing)).unwrap());
}

/// A look at a header, which waits for the disk.
fn look(place: &Place) -> Result<Header, LuksError> {
    wait_for(&place.backing);
    luks::look(place)
}

impl Host {
    /// Volumes on disks some of which may come to hang.
    fn with_volumes(names: &[&str]) -> Self {
        let mut host = Host::with_provider();
        let driver = Arc::clone(&host.driver);
        (host.client, host.daemon) = start_daemon_with(host.directory.path(), &host.driver, |daemon| {
            daemon.headers = headers::looks(Duration::from_secs(5), look);
            // A worker waits for it, too, and with it who has it start.
            let driver = Arc::clone(&driver);
            daemon.start_worker = Box::new(move |start| {
                start.job.backing.as_deref().iter().for_each(|backing| wait_for(backing));
                driver.start_worker(start)
            });
        });
        host.unlock("office", "sesame").unwrap();
        for name in names {
            host.create(name, host.image(name)).unwrap();
        }
        host
    }
}

fn says_hung(problem: Option<&String>, backing: &Path) -> bool {
    let expected = format!("its backing does not answer: {}", backing.display());
    problem.is_some_and(|problem| *problem == expected)
}

#[test]
fn look_verbs_show_the_others_and_what_was_known_of_a_volume_whose_disk_hangs() {
    let names: Vec<String> = (0..8).map(|n| format!("vol{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut host = Host::with_volumes(&names);
    let before = host.call(&List {}).unwrap().volumes;
    let hung: Vec<_> = names[1..].iter().map(|name| Hung::new(&host.path(name))).collect();
    for _ in 0..2 {
        let seen = host.call(&List {}).unwrap().volumes;
        assert_eq!(seen[0], before[0]);
        for (seen, before) in seen.iter().zip(&before).skip(1) {
            assert!(says_hung(seen.problem.as_ref(), before.backing.as_ref().unwrap()), "{:?}", seen.problem);
            assert_eq!(control::Volume { problem: None, ..seen.clone() }, *before);
        }
    }
    assert_eq!(host.call(&Status { volume: "vol0".into() }).unwrap(), before[0]);
    assert!(host.call(&Status { volume: "vol7".into() }).unwrap().problem.is_some());
    drop(hung);
    assert_eq!(host.call(&List {}).unwrap().volumes, before);
}

#[test]
fn the_kek_of_a_volume_whose_disk_hangs_is_kept_and_others_are_not() {
    let mut host = Host::with_volumes(&["hung", "other"]);
    let hung = Hung::new(&host.path("hung"));
    let office = || "office".parse().unwrap();
    let keks = host.call(&KekList { provider: Some(office()) }).unwrap().keks;
    assert_eq!(keks[0].volumes.len(), 2);
    let needed = keks[0].kek_id.clone();
    let spare = host.call(&KekCreate { provider: None, inactive: false }).unwrap().kek_id;
    for kek_id in [&needed, &spare] {
        let revoke = KekRevoke { provider: office(), kek_id: kek_id.clone(), compromised: false };
        host.call(&revoke).unwrap();
    }
    let destroy = |kek_id: &str| KekDestroy { provider: office(), kek_id: kek_id.into() };
    host.fails(&destroy(&needed), FailureKind::Busy, "hung");
    host.call(&destroy(&spare)).unwrap();
    host.fails(&ProviderRemove { name: office() }, FailureKind::Busy, "hung");
    drop(hung);
}

#[test]
fn whoever_locks_an_image_that_all_may_read_keeps_nobody_from_looking() {
    let mut host = Host::with_volumes(&["one", "two"]);
    let before = host.call(&List {}).unwrap().volumes;
    let reader = fs::File::open(host.path("one")).unwrap();
    // SAFETY: locks an open file; no memory is involved.
    assert_eq!(unsafe { libc::flock(reader.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    assert_eq!(host.call(&List {}).unwrap().volumes, before);
    for name in ["one", "two"] {
        assert_eq!(host.call(&Status { volume: name.into() }).unwrap().state, VolumeState::Unlocked);
    }
}

#[test]
fn a_damaged_copy_is_told_by_who_looks_and_repaired_by_who_works() {
    use std::os::unix::fs::FileExt;
    let mut host = Host::with_volumes(&["vol"]);
    let backing = host.path("vol");
    fs::OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(&[0; 512], 16384).unwrap();
    let damaged = fs::read(&backing).unwrap();
    for _ in 0..2 {
        let notice = host.call(&Status { volume: "vol".into() }).unwrap().notice.unwrap();
        assert!(notice.contains("the secondary copy") && notice.contains("is damaged"), "{notice}");
    }
    assert!(damaged == fs::read(&backing).unwrap(), "to look changes nothing");
    let open = host.open("vol");
    let notice = host.call(&open).unwrap().notice.unwrap();
    assert!(notice.contains("was damaged and has been repaired"), "{notice}");
    assert_eq!(host.call(&Status { volume: "vol".into() }).unwrap().notice, None);
}

#[test]
fn a_volume_whose_disk_hangs_keeps_no_other_one_of_its_provider_waiting() {
    let mut host = Host::with_volumes(&["a-hung", "b", "c"]);
    host.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    for name in ["a-hung", "b", "c"] {
        host.want(name);
    }
    let hung = Hung::new(&host.path("a-hung"));
    host.unlock("office", "sesame").unwrap();
    for name in ["b", "c"] {
        host.wait_until("the others are live", |host| host.status(name).state == VolumeState::Live);
    }
    assert!(host.status("a-hung").device.is_none());
    drop(hung);
    host.wait_until("it is live, too", |host| host.status("a-hung").state == VolumeState::Live);
}

#[test]
fn who_works_with_an_image_that_somebody_has_locked_is_told_so_and_others_work_on() {
    let mut host = Host::with_volumes(&["one", "two"]);
    let reader = fs::File::open(host.path("one")).unwrap();
    // SAFETY: locks an open file; no memory is involved.
    assert_eq!(unsafe { libc::flock(reader.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }, 0);
    let open = host.open("one");
    host.fails(&open, FailureKind::Busy, "another process has locked it (flock)");
    let open = host.open("two");
    host.call(&open).unwrap();
    drop(reader);
    let open = host.open("one");
    host.call(&open).unwrap();
}
