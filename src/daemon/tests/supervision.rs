//! Devices whose numbers are given out again, whose workers end, and which earlier daemons left.

use ublk_targets::device::{Phase, Word};

use super::*;
use crate::control::Events;
use crate::control::worker::Job;
use crate::daemon::devices::Device;
use crate::daemon::records::Record;
use crate::identity::FileId;
use crate::volume::State;

const OTHERS: Word = Word::new(0xbad);

impl Host {
    /// A daemon with the open volume `vol`, and the device of that.
    fn with_open_volume() -> (Self, Device) {
        let mut host = Self::with_provider();
        host.create("vol", host.image("disk")).unwrap();
        let open = host.open("vol");
        host.call(&open).unwrap();
        let device = host.device();
        (host, device)
    }

    fn device(&self) -> Device {
        self.daemon.devices().get("vol".parse::<Name>().as_ref().unwrap()).unwrap().clone()
    }

    /// What is in the way of a volume's record, with the job changed.
    fn leave_record(&self, record: &Record) {
        record.write(&self.path("run/workers/vol.json")).unwrap();
    }
}

/// The id of a process that has ended.
fn dead_process() -> u32 {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
fn each_device_has_a_word_of_its_own() {
    let (mut host, device) = Host::with_open_volume();
    host.create("other", host.image("other")).unwrap();
    let open = host.open("other");
    host.call(&open).unwrap();
    let other = host.daemon.devices().get("other".parse::<Name>().as_ref().unwrap()).unwrap().clone();
    assert_ne!(device.report.job.word, other.report.job.word);
    let info = host.driver.info(device.report.device_id).unwrap().unwrap();
    assert_eq!(Some(info.word), device.report.job.word);
}

#[test]
fn the_end_of_a_device_spares_whoever_got_its_number() {
    let (host, device) = Host::with_open_volume();
    let id = device.report.device_id;
    host.driver.give_away(id, OTHERS);
    host.daemon.end(&device, None).unwrap();
    let other = host.driver.info(id).unwrap().unwrap();
    assert_eq!((other.word, other.phase), (OTHERS, Phase::Live), "the other device is as it was");
    assert!(host.daemon.devices().is_empty());
}

#[test]
fn the_end_of_a_device_stops_deletes_and_forgets_it() {
    let (host, device) = Host::with_open_volume();
    let other = host.driver.add(OTHERS, Some(1), Phase::Live);
    host.daemon.end(&device, None).unwrap();
    assert_eq!(host.driver.list(), [other]);
    assert!(!host.path("run/workers/vol.json").exists());
    assert!(device.process.unwrap().wait(Some(Duration::ZERO)), "its worker has ended");
}

#[test]
fn a_live_device_of_another_server_is_not_stopped_for_its_word_alone() {
    let (host, device) = Host::with_open_volume();
    host.driver.change(device.report.device_id, |info| info.server = Some(1));
    let _ = host.daemon.end(&device, None);
    assert_eq!(host.driver.info(device.report.device_id).unwrap().unwrap().phase, Phase::Live);
}

#[test]
fn a_worker_that_could_not_start_leaves_no_device() {
    let mut host = Host::with_provider();
    host.create("vol", host.image("disk")).unwrap();
    host.driver.fail_next(Failure::new(FailureKind::System, "no memory"), true);
    let other = host.driver.add(OTHERS, Some(1), Phase::Live);
    let open = host.open("vol");
    host.fails(&open, FailureKind::System, "no memory");
    assert_eq!(host.driver.list(), [other]);
    assert!(!host.path("run/workers/vol.json").exists());
}

#[test]
fn a_worker_that_dies_is_replaced_on_the_same_device() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    device.process.unwrap().kill();
    host.wait_until("a new worker", |host| host.device().report.pid != device.report.pid);
    assert_eq!(host.device().report.device_id, device.report.device_id);
    assert_eq!(host.device().report.job.word, device.report.job.word);
}

#[test]
fn what_somebody_else_stopped_is_deleted_and_closed() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.stop(device.report.device_id).unwrap();
    host.wait_until("it is forgotten", |host| host.daemon.devices().is_empty());
    host.wait_until("it is deleted", |host| host.driver.list().is_empty());
}

#[test]
fn a_device_whose_number_went_to_another_is_not_taken_over() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.give_away(device.report.device_id, OTHERS);
    device.process.unwrap().kill();
    host.wait_until("it is forgotten", |host| host.daemon.devices().is_empty());
    assert_eq!(host.driver.info(device.report.device_id).unwrap().unwrap().word, OTHERS);
}

#[test]
fn a_later_daemon_takes_over_what_lost_its_worker_and_spares_whoever_got_the_number() {
    let (mut host, device) = Host::with_open_volume();
    let report = device.report;
    host.daemon.devices().clear(); // this daemon is no longer to look after it
    host.driver.change(report.device_id, |info| info.phase = Phase::Quiesced);
    host.restart();
    assert!(matches!(host.device().state, State::Quiesced(_)));
    assert_eq!(host.device().report.device_id, report.device_id);

    host.daemon.devices().clear();
    host.leave_record(&Record::Serving { report: Box::new(report.clone()), backing_id: None });
    host.driver.give_away(report.device_id, OTHERS);
    host.restart();
    assert!(host.daemon.devices().is_empty());
    assert_eq!(host.driver.info(report.device_id).unwrap().unwrap().word, OTHERS);
    assert!(!host.path("run/workers/vol.json").exists());
}

#[test]
fn a_device_of_a_start_that_was_cut_short_is_deleted() {
    let (mut host, device) = Host::with_open_volume();
    let job = Job { word: Some(Word::new(77)), ..device.report.job.clone() };
    host.daemon.end(&device, None).unwrap();
    let id = host.driver.add(Word::new(77), Some(dead_process()), Phase::Live);
    let other = host.driver.add(OTHERS, Some(1), Phase::Live);
    host.leave_record(&Record::Starting { job: Box::new(job) });
    host.restart();
    host.wait_until("its device is deleted", |host| host.driver.list() == [other]);
    host.wait_until("and its record", |host| !host.path("run/workers/vol.json").exists());
    assert_ne!(id, other);
}

#[test]
fn orphans_of_older_releases_are_known_by_the_word_that_all_had() {
    let mut host = Host::start();
    let word = control::worker::old_word(&host.path("run/workers"));
    host.driver.add(word, Some(dead_process()), Phase::Live);
    host.driver.add(word, Some(dead_process()), Phase::Quiesced);
    let served = host.driver.add(word, Some(std::process::id()), Phase::Live);
    let other = host.driver.add(OTHERS, Some(dead_process()), Phase::Quiesced);
    host.restart();
    assert_eq!(host.driver.list(), [served, other]);
}

/// Moves a copy of `vol`'s backing over it, as a restored backup is.
fn put_copy_in_place(host: &Host) {
    fs::copy(host.path("disk"), host.path("copy")).unwrap();
    fs::rename(host.path("copy"), host.path("disk")).unwrap();
}

#[test]
fn a_new_worker_gets_the_file_that_was_opened_whatever_is_at_its_path() {
    let (mut host, device) = Host::with_open_volume();
    let opened = FileId::at(&host.path("disk")).unwrap();
    assert_eq!(host.driver.last_served(), opened);
    put_copy_in_place(&host);
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    device.process.unwrap().kill();
    host.wait_until("a new worker", |host| host.device().report.pid != device.report.pid);
    assert_eq!(host.driver.last_served(), opened);
    assert_ne!(FileId::at(&host.path("disk")).unwrap(), opened);
}

#[test]
fn the_backing_of_a_quiesced_volume_stays_claimed() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.fail_always(Failure::new(FailureKind::System, "no memory"));
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    device.process.unwrap().kill();
    host.wait_until("it is quiesced", |host| host.status("vol").state == VolumeState::Quiesced);
    let seen = host.status("vol");
    assert_eq!(seen.device.unwrap().pid, None, "the dead worker's pid is told");
    let claimed = crate::luks::claim(&host.path("disk"), 0);
    assert!(matches!(claimed, Err(crate::luks::LuksError::InUse { .. })), "{claimed:?}");
}

#[test]
fn a_later_daemon_reissues_nothing_onto_another_file() {
    let (mut host, device) = Host::with_open_volume();
    host.daemon.devices().clear();
    drop(device.claimed);
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    fs::copy(host.path("disk"), host.path("kept")).unwrap();
    fs::rename(host.path("disk"), host.path("original")).unwrap();
    fs::rename(host.path("kept"), host.path("disk")).unwrap();
    let starts = host.driver.starts();
    host.restart();
    host.unlock("office", "sesame").unwrap();
    host.wait_until("it says why it is quiesced", |host| {
        let seen = host.status("vol");
        let problem = seen.problem.unwrap_or_default();
        seen.state == VolumeState::Quiesced
            && problem.contains("another file or disk than the one that volume vol")
    });
    assert_eq!(host.driver.starts(), starts);
    // The original is back, and somebody asks for it.
    fs::rename(host.path("original"), host.path("disk")).unwrap();
    let open = host.open("vol");
    host.call(&open).unwrap();
    assert_eq!(host.status("vol").state, VolumeState::Live);
}

#[test]
fn a_quiesced_volume_is_tried_again_until_it_is_live() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.fail_always(Failure::new(FailureKind::Io, "the disk is away"));
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    device.process.unwrap().kill();
    host.wait_until("it says why", |host| host.status("vol").problem.is_some_and(|why| why.contains("away")));
    host.driver.fail_no_more();
    host.wait_until("it is live", |host| host.status("vol").state == VolumeState::Live);
    let replaced = |host: &mut Host| {
        let call = Events { volume: Some("vol".into()), ..Events::default() };
        let events = host.call(&call).unwrap().events.into_iter();
        events.filter(|event| event.verb == "worker replace").map(|event| event.result).collect::<Vec<_>>()
    };
    host.wait_until("that is told", |host| replaced(host).last().is_some_and(|result| result == "ok"));
    assert_eq!(replaced(&mut host).len(), 2, "one failure, however often, and one success");
}

#[test]
fn a_volume_whose_workers_do_not_live_is_left_alone_for_a_while_and_that_is_told() {
    let (mut host, _) = Host::with_open_volume();
    for _ in 0..5 {
        let device = host.device();
        host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
        device.process.unwrap().kill();
        host.wait_until("the next worker, or none", |host| {
            host.device().report.pid != device.report.pid
                || host.status("vol").problem.is_some_and(|why| why.contains("in a row"))
        });
    }
    let seen = host.status("vol");
    assert!(seen.state == VolumeState::Quiesced && seen.device.unwrap().pid.is_none());
    let call = Events { volume: Some("vol".into()), ..Events::default() };
    host.wait_until("that is told", |host| {
        let events = host.call(&call).unwrap().events;
        let last = events.iter().rfind(|event| event.verb == "worker replace");
        last.is_some_and(|event| event.result == "Internal")
    });
    let open = host.open("vol");
    host.call(&open).unwrap();
    assert_eq!(host.status("vol").state, VolumeState::Live, "who asks need not wait");
}

#[test]
fn who_uses_a_quiesced_volume_is_given_up_by_force_only() {
    let (mut host, device) = Host::with_open_volume();
    host.driver.fail_always(Failure::new(FailureKind::System, "no memory"));
    host.driver.change(device.report.device_id, |info| info.phase = Phase::Quiesced);
    device.process.unwrap().kill();
    host.wait_until("it is quiesced", |host| host.status("vol").state == VolumeState::Quiesced);
    // There is no such node, so that it cannot be told whether anybody uses it.
    let close = |force| Close { volume: "vol".into(), force };
    let refused = host.call(&close(false)).unwrap_err();
    assert!(refused.hint.unwrap().contains("close --force"));
    let closed = host.call(&close(true)).unwrap();
    assert!(closed.notice.unwrap().contains("lost"));
    assert!(host.driver.list().is_empty() && host.daemon.devices().is_empty());
}

#[test]
fn a_volume_that_is_served_and_in_use_is_not_closed_by_force() {
    let (mut host, _) = Host::with_open_volume();
    host.call(&Close { volume: "vol".into(), force: true }).unwrap_err();
    assert_eq!(host.status("vol").state, VolumeState::Live);
}

#[test]
fn what_is_write_protected_is_opened_to_read_and_not_written() {
    let mut host = Host::with_provider();
    let backing = host.image("disk");
    host.create("vol", backing.clone()).unwrap();
    // The second copy of the header is damaged.
    let file = fs::File::options().write(true).open(&backing).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 512], 0x4000).unwrap();
    drop(file);
    let before = fs::read(&backing).unwrap();
    let _reader = crate::luks::claim_to_read(&backing).unwrap();
    let writes = host.open("vol");
    host.fails(&writes, FailureKind::Busy, "disk");
    let options = DeviceOptions { read_only: true, ..DeviceOptions::default() };
    let opened = host.call(&Open { options, ..host_open("vol") }).unwrap();
    assert!(opened.notice.unwrap().contains("is damaged"));
    assert!(fs::read(&backing).unwrap() == before, "the backing was written to");
}

fn host_open(volume: &str) -> Open {
    Open {
        volume: volume.into(),
        name: None,
        header: None,
        options: DeviceOptions::default(),
        keep_trying: None,
    }
}
