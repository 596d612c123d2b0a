//! Volumes that are opened while their KEK is not to be had.

use std::time::Instant;

use super::key_servers::{add, at, support};
use super::*;
use crate::control::{Event, Events, Rekey, Volume};
use support::{Pki, PyKmip};

/// Generous: what never comes counts as failed after this.
const BOUND: Duration = Duration::from_secs(120);

impl Host {
    pub fn status(&mut self, name: &str) -> Volume {
        self.call(&Status { volume: name.into() }).unwrap()
    }

    pub fn wait_until(&mut self, what: &str, condition: impl Fn(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < BOUND, "it did not come: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn lock(&mut self) {
        self.call(&ProviderLock { name: "office".parse().unwrap() }).unwrap();
    }

    /// Opens the volume, which stays locked.
    pub fn want(&mut self, name: &str) -> Failure {
        let open = self.open(name);
        let failure = self.call(&open).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Waiting, "{failure}");
        failure
    }

    /// What was recorded of opening the volume: by whom, and how it ended.
    fn opened(&mut self, name: &str) -> Vec<(bool, String)> {
        let call = Events { volume: Some(name.into()), ..Events::default() };
        let events = self.call(&call).unwrap().events;
        let by_daemon = |event: &Event| event.uid.is_none();
        events
            .iter()
            .filter(|event| event.verb == "open")
            .map(|event| (by_daemon(event), event.result.clone()))
            .collect()
    }
}

fn texts(results: &[(bool, String)]) -> Vec<(bool, &str)> {
    results.iter().map(|(by_daemon, result)| (*by_daemon, result.as_str())).collect()
}

#[test]
fn a_locked_volume_stays_wanted_and_opens_once_its_provider_is_unlocked() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.create("other", host.image("other")).unwrap();
    host.lock();
    let failure = host.want("vol");
    assert!(failure.message.contains("key provider office is locked; the volume stays locked"), "{failure}");
    assert!(failure.hint.unwrap().contains("'blkseal close vol'"));
    let seen = host.status("vol");
    assert_eq!((seen.state, seen.wanted, seen.device.is_none()), (VolumeState::Locked, true, true));
    assert!(seen.problem.unwrap().contains("key provider office is locked"));
    assert!(!host.status("other").wanted);

    host.unlock("office", "sesame").unwrap();
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
    host.wait_until("and no longer wanted", |host| !host.status("vol").wanted);
    assert_eq!(host.status("other").state, VolumeState::Unlocked, "nobody wanted that");
    host.wait_until("that is told", |host| host.opened("vol").len() == 2);
    assert_eq!(texts(&host.opened("vol")), [(false, "Waiting"), (true, "ok")]);
    assert_eq!(fs::read_dir(host.path("run/wanted")).unwrap().count(), 0);
}

#[test]
fn a_volume_whose_kek_another_host_has_changed_waits_for_its_new_provider() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.add("spare", None).unwrap();
    let registry = host.path("state/volumes.toml");
    let remembered = fs::read(&registry).unwrap();
    host.call(&Rekey { volume: "vol".into(), provider: Some("spare".parse().unwrap()), kek_id: None })
        .unwrap();
    // What this host remembers is as if another one had done that.
    fs::write(&registry, remembered).unwrap();
    host.restart();
    assert!(host.want("vol").message.contains("key provider spare is locked"));
    assert!(fs::read_to_string(&registry).unwrap().contains("provider = \"spare\""));
    host.unlock("spare", "sesame").unwrap();
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
}

#[test]
fn who_does_not_want_to_wait_leaves_no_wish() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.lock();
    let open = Open { keep_trying: Some(false), ..host.open("vol") };
    host.fails(&open, FailureKind::Locked, "office");
    assert!(!host.status("vol").wanted);
    host.fails(&Close { volume: "vol".into(), force: false }, FailureKind::NotFound, "vol");
}

#[test]
fn close_forgets_the_wish() {
    let mut host = Host::with_provider();
    for name in ["vol", "wanted"] {
        host.create(name, host.image(name)).unwrap();
    }
    host.lock();
    host.want("vol");
    host.want("wanted");
    host.call(&Close { volume: "vol".into(), force: false }).unwrap();
    assert!(!host.status("vol").wanted);
    host.fails(&Close { volume: "vol".into(), force: false }, FailureKind::NotFound, "vol");
    host.unlock("office", "sesame").unwrap();
    // They are tried in the order of their names.
    host.wait_until("the other is live", |host| host.status("wanted").state == VolumeState::Live);
    assert_eq!(host.status("vol").state, VolumeState::Unlocked);
}

#[test]
fn a_wish_outlives_the_daemon_with_all_that_was_asked_for() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.lock();
    let options = DeviceOptions { read_only: true, depth: Some(7), ..DeviceOptions::default() };
    let open = Open { options, ..host.open("vol") };
    host.fails(&open, FailureKind::Waiting, "vol");
    fs::write(host.path("run/wanted/broken.json"), "{").unwrap();
    fs::write(host.path("run/wanted/nobody.json"), "{}").unwrap();
    host.restart();
    assert_eq!((host.status("vol").state, host.status("vol").wanted), (VolumeState::Locked, true));
    assert_eq!(fs::read_dir(host.path("run/wanted")).unwrap().count(), 1, "what makes no sense is removed");
    host.unlock("office", "sesame").unwrap();
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
    let device = host.status("vol").device.unwrap();
    assert_eq!((device.read_only, device.depth), (true, 7));
    // A device that is there is not wanted: the next daemon takes it over and does not open it again.
    host.restart();
    assert_eq!((host.status("vol").state, host.status("vol").wanted), (VolumeState::Live, false));
    assert_eq!(host.status("vol").device.unwrap().pid, device.pid);
}

#[test]
fn a_volume_whose_disk_is_away_stays_wanted_until_it_is_back() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.lock();
    host.want("vol");
    fs::rename(host.path("disk"), host.path("away")).unwrap();
    host.unlock("office", "sesame").unwrap();
    host.wait_until("that is told", |host| host.opened("vol").len() == 2);
    let seen = host.status("vol");
    assert!(seen.wanted && seen.problem.unwrap().contains("disk does not exist"));
    fs::rename(host.path("away"), host.path("disk")).unwrap();
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
    host.wait_until("and no longer wanted", |host| !host.status("vol").wanted);
    host.wait_until("that is told as well", |host| host.opened("vol").len() == 3);
    assert_eq!(texts(&host.opened("vol")), [(false, "Waiting"), (true, "NoInput"), (true, "ok")]);
}

#[test]
fn a_volume_of_which_trying_again_cannot_help_is_wanted_no_longer() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.lock();
    host.want("vol");
    fs::write(host.path("disk"), vec![0; 20 << 20]).unwrap();
    host.unlock("office", "sesame").unwrap();
    host.wait_until("it is given up", |host| !host.status("vol").wanted);
    host.wait_until("and that is told", |host| host.opened("vol").len() == 2);
    assert_eq!(texts(&host.opened("vol")), [(false, "Waiting"), (true, "BadData")]);
}

#[test]
fn to_open_it_again_is_to_try_again() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.lock();
    host.want("vol");
    host.want("vol");
    // The thread that tries again has not come to it yet, or has opened it by now.
    host.unlock("office", "sesame").unwrap();
    let open = host.open("vol");
    match host.call(&open) {
        Ok(volume) => assert_eq!((volume.state, volume.wanted), (VolumeState::Live, false)),
        Err(failure) => assert_eq!(failure.kind, FailureKind::Busy, "{failure}"),
    }
    host.wait_until("the volume is live", |host| host.status("vol").state == VolumeState::Live);
}

#[test]
#[ignore = "takes a key server: ci/test runs it with one"]
fn volumes_open_when_key_servers_that_were_down_at_start_are_back() {
    let pki = Pki::new();
    let (mut first, mut second) = (PyKmip::start(&pki, "keys"), PyKmip::start(&pki, "keys"));
    let mut host = Host::start();
    host.call(&add(&pki, &[at(first.port), at(second.port)])).unwrap();
    for name in ["one", "two"] {
        host.create(name, host.image(name)).unwrap();
    }
    first.stop();
    second.stop();
    host.restart();
    for name in ["one", "two"] {
        let failure = host.want(name);
        assert!(
            [first.port, second.port].iter().all(|port| failure.message.contains(&at(*port))),
            "{failure}"
        );
        let seen = host.status(name);
        assert_eq!((seen.state, seen.wanted), (VolumeState::Locked, true));
    }
    let failovers = |host: &mut Host| {
        let events = host.call(&Events::default()).unwrap().events;
        events.iter().filter(|event| event.verb == "failover").count()
    };
    // Some attempts fail, of which nothing but the first is news.
    let before = failovers(&mut host);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(failovers(&mut host), before);

    second.restart();
    for name in ["one", "two"] {
        host.wait_until("the volume is live", |host| host.status(name).state == VolumeState::Live);
        host.wait_until("that is told", |host| host.opened(name).len() == 2);
        assert_eq!(texts(&host.opened(name)), [(false, "Waiting"), (true, "ok")]);
    }
    let kek_id = host.status("one").kek_id;
    let events = host.call(&Events::default()).unwrap().events;
    let fetched: Vec<_> = events.iter().filter(|event| event.verb == "key fetch").collect();
    let last = fetched.last().unwrap();
    assert_eq!((&last.kek_id, &last.server), (&kek_id, &Some(at(second.port))), "{events:#?}");
}
