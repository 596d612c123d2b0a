//! One record for each change and refusal: who did what to which volume, with which key, and how it ended. The one place
//! where they are written: to the daemon's log and to the event log on disk.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::event_log::{Bounds, EventLog, Reader};
use crate::control::{Event, Failure, FailureKind, Peer};

/// Bytes of the longest text of an event that others may have chosen.
const LONGEST_TEXT: usize = 1024;
/// Failures of one user, root but for, that are recorded one by one in [`PERIOD`]: nobody is to drown what others did. Of the
/// others their number is recorded.
const MOST_FAILURES: u32 = 60;
const PERIOD: Duration = Duration::from_secs(60);

/// Something that is done, before its end is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    /// Who asked, the user and the process; none where the daemon acts by itself.
    pub actor: Option<(u32, i32)>,
    /// What is done, as the command line calls it.
    pub verb: &'static str,
    /// To which volume.
    pub volume: Option<String>,
    /// The volume's UUID.
    pub uuid: Option<Uuid>,
    /// With which provider.
    pub provider: Option<String>,
    /// With which KEK.
    pub kek_id: Option<String>,
    /// With which key server, or servers.
    pub server: Option<String>,
    /// What else is to be said, where it ends well.
    pub note: Option<String>,
}

impl Action {
    /// What the daemon does by itself.
    pub fn own(verb: &'static str) -> Self {
        Self { verb, ..Self::default() }
    }

    /// What `peer` asks for.
    pub fn of(peer: &Peer, action: Self) -> Self {
        Self { actor: Some((peer.uid, peer.pid)), ..action }
    }

    fn ended<T>(&self, result: &Result<T, Failure>) -> Event {
        let short = |text: &String| text.chars().take(LONGEST_TEXT).collect();
        let (result, message) = match result {
            Ok(_) => ("ok".into(), self.note.clone()),
            Err(failure) => (format!("{:?}", failure.kind), Some(failure.message.clone())),
        };
        Event {
            time: format!("{:.6}", Timestamp::now()),
            uid: self.actor.map(|(uid, _)| uid),
            pid: self.actor.map(|(_, pid)| pid),
            verb: self.verb.into(),
            volume: self.volume.as_ref().map(short),
            uuid: self.uuid,
            provider: self.provider.clone(),
            kek_id: self.kek_id.clone(),
            server: self.server.as_ref().map(short),
            result,
            message: message.as_ref().map(short),
        }
    }
}

/// What records events.
pub(super) struct Recorder {
    state: Mutex<State>,
    grown: Condvar,
}

struct State {
    log: EventLog,
    /// Why events could not be written, and how many, since one was.
    lost: Option<(String, u64)>,
    failures: FailureCounts,
}

impl Recorder {
    /// Records to the event log in `directory`.
    pub fn open(directory: PathBuf, bounds: Bounds) -> Result<Self, Failure> {
        let log = EventLog::open(directory.clone(), bounds).map_err(|error| {
            let message = format!("cannot use the event log in {}: {error}", directory.display());
            Failure::new(FailureKind::System, message)
        })?;
        if log.is_torn() {
            log::warn!("the last event in {} is incomplete, as after a crash", directory.display());
        }
        let state = State { log, lost: None, failures: FailureCounts::default() };
        Ok(Self { state: Mutex::new(state), grown: Condvar::new() })
    }

    /// Records that `action` ended with `result`. An event that cannot be written to the disk is in the daemon's log
    /// all the same, changes nothing for its cause, and is told of by [`Recorder::problem`] and a later event.
    pub fn record<T>(&self, action: &Action, result: &Result<T, Failure>) {
        self.record_at(Instant::now(), action, result);
    }

    fn record_at<T>(&self, now: Instant, action: &Action, result: &Result<T, Failure>) {
        let mut state = self.state();
        state.tell_left_out(now);
        let failures = match (action.actor, result) {
            (Some((uid, _)), Err(_)) if uid != 0 => state.failures.count(uid, now),
            _ => 0,
        };
        if failures > MOST_FAILURES {
            return;
        }
        let mut event = action.ended(result);
        if failures == MOST_FAILURES {
            let message = event.message.unwrap_or_default();
            event.message =
                Some(format!("{message}; further failures of this user are only counted for a while"));
        }
        state.write(&event);
        self.grown.notify_all();
    }

    /// Records how many failures were left out, as before the end of the daemon, which is the last to know.
    pub fn finish(&self) {
        self.state().tell_left_out(Instant::now() + PERIOD);
    }

    /// What keeps events from the disk, where something does.
    pub fn problem(&self) -> Option<String> {
        let (reason, count) = self.state().lost.clone()?;
        Some(format!("{count} events are in the daemon's log only: {reason}"))
    }

    /// What reads the log as it is now, or as it is once it reaches beyond `after`, for which it waits `limit`.
    pub fn reader(&self, after: u64, limit: Duration) -> Reader {
        self.state().tell_left_out(Instant::now());
        let state = self.grown.wait_timeout_while(self.state(), limit, |state| state.log.end() <= after);
        state.unwrap_or_else(PoisonError::into_inner).0.log.reader()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere can have left a line that is torn at worst, which the log knows how to go on after.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Records how many failures each user had in the periods that are over by `now` and were not recorded one by one.
    fn tell_left_out(&mut self, now: Instant) {
        for (uid, count) in self.failures.ended(now) {
            let message = format!("{count} failures of this user in a minute are not recorded one by one");
            let action = Action::own("failures left out");
            let event = action.ended::<()>(&Err(Failure::new(FailureKind::NotPermitted, message)));
            self.write(&Event { uid: Some(uid), ..event });
        }
    }

    fn write(&mut self, event: &Event) {
        let level = if event.result == "ok" { log::Level::Info } else { log::Level::Warn };
        log::log!(target: "event", level, "{}", fields(event));
        if let Err(reason) = self.append(event) {
            let count = self.lost.take().map_or(0, |(_, count)| count) + 1;
            if count == 1 {
                log::error!("events cannot be written to the event log: {reason}");
            }
            self.lost = Some((reason, count));
        }
    }

    /// Appends the event, and before it how many could not be.
    fn append(&mut self, event: &Event) -> Result<(), String> {
        if let Some((reason, count)) = &self.lost {
            let message = format!("{count} events are in the daemon's log only: {reason}");
            let gap = Action::own("events lost").ended::<()>(&Err(Failure::new(FailureKind::Io, message)));
            self.append_line(&gap)?;
            self.lost = None;
        }
        self.append_line(event)
    }

    fn append_line(&mut self, event: &Event) -> Result<(), String> {
        let line = serde_json::to_string(event).map_err(|error| error.to_string())?;
        self.log.append(&line).map_err(|error| error.to_string())
    }
}

/// The event as a line of the daemon's log. Texts are quoted, so that no name can make up fields or lines.
fn fields(event: &Event) -> String {
    let actor = match (event.uid, event.pid) {
        (Some(uid), Some(pid)) => format!("uid:{uid}/pid:{pid}"),
        (Some(uid), None) => format!("uid:{uid}"),
        _ => "daemon".into(),
    };
    let mut line = format!("verb={:?} actor={actor} result={}", event.verb, event.result);
    let uuid = event.uuid.map(|uuid| uuid.to_string());
    let texts = [
        ("volume", &event.volume),
        ("uuid", &uuid),
        ("provider", &event.provider),
        ("kek", &event.kek_id),
        ("server", &event.server),
        ("message", &event.message),
    ];
    for (name, text) in texts {
        line.extend(text.iter().map(|text| format!(" {name}={text:?}")));
    }
    line
}

/// How many failures each user had, since the first of a period.
#[derive(Default)]
struct FailureCounts(HashMap<u32, (Instant, u32)>);

impl FailureCounts {
    /// Forgets the periods that are over by `now`. Returns the users of those that had too many failures, and how many
    /// were too many.
    fn ended(&mut self, now: Instant) -> Vec<(u32, u32)> {
        let over = self.0.extract_if(|_, (since, _)| now.duration_since(*since) >= PERIOD);
        over.filter_map(|(uid, (_, count))| Some((uid, count.checked_sub(MOST_FAILURES)?)))
            .filter(|(_, left_out)| *left_out > 0)
            .collect()
    }

    /// Counts a failure of `uid`, and returns which one of its period it is.
    fn count(&mut self, uid: u32, now: Instant) -> u32 {
        let (_, count) = self.0.entry(uid).or_insert((now, 0));
        *count = count.saturating_add(1);
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_make_up_a_field_or_a_line() {
        let action = Action { volume: Some("a\" result=ok\nverb=b".into()), ..Action::own("open") };
        let event = action.ended::<()>(&Err(Failure::new(FailureKind::Busy, "in use\nby x")));
        let line =
            r#"verb="open" actor=daemon result=Busy volume="a\" result=ok\nverb=b" message="in use\nby x""#;
        assert_eq!(fields(&event), line);
        assert_eq!(serde_json::to_string(&event).unwrap().lines().count(), 1);
    }

    #[test]
    fn failures_are_counted_by_user_and_period() {
        let (mut counts, start) = (FailureCounts::default(), Instant::now());
        assert_eq!([1, 2, 1, 1].map(|uid| counts.count(uid, start)), [1, 1, 2, 3]);
        (0..MOST_FAILURES).for_each(|_| _ = counts.count(1, start));
        assert_eq!(counts.ended(start + PERIOD - Duration::from_nanos(1)), []);
        assert_eq!(counts.ended(start + PERIOD), [(1, 3)]);
        assert_eq!(counts.count(1, start + PERIOD), 1);
        assert_eq!(counts.0.len(), 1, "what is over is forgotten");
    }

    fn read(recorder: &Recorder) -> Vec<Event> {
        let reader = recorder.reader(0, Duration::ZERO);
        let (bytes, _) = reader.read(0, 1 << 20).unwrap();
        bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    fn by(uid: u32) -> Action {
        Action { actor: Some((uid, 1)), ..Action::own("open") }
    }

    fn refused() -> Result<(), Failure> {
        Err(Failure::new(FailureKind::NotPermitted, "no"))
    }

    #[test]
    fn who_waits_for_an_event_is_woken_by_it() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::open(directory.path().join("events"), Bounds::default()).unwrap();
        let recorder = std::sync::Arc::new(recorder);
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::sync::Arc::clone(&recorder);
        std::thread::spawn(move || sender.send(waiter.reader(0, Duration::from_secs(3600)).end()));
        assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err());
        recorder.record(&by(1), &Ok(()));
        let end = receiver.recv_timeout(Duration::from_secs(60)).expect("nobody wakes who waits");
        assert_eq!(end, recorder.reader(0, Duration::ZERO).end());
    }

    #[test]
    fn nobody_can_drown_what_others_do() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::open(directory.path().join("events"), Bounds::default()).unwrap();
        let start = Instant::now();
        for _ in 0..3 * MOST_FAILURES {
            recorder.record_at(start, &by(4001), &refused());
            recorder.record_at(start, &by(0), &refused());
            recorder.record_at(start, &by(4001), &Ok(()));
        }
        recorder.record_at(start, &by(4002), &refused());
        let events = read(&recorder);
        let count = |uid, result: &str| {
            events.iter().filter(|event| event.uid == Some(uid) && event.result == result).count() as u32
        };
        assert_eq!(count(4001, "NotPermitted"), MOST_FAILURES);
        assert_eq!((count(4001, "ok"), count(0, "NotPermitted")), (3 * MOST_FAILURES, 3 * MOST_FAILURES));
        assert_eq!(count(4002, "NotPermitted"), 1);
        let last = events.iter().rfind(|event| event.uid == Some(4001) && event.result != "ok").unwrap();
        assert!(last.message.as_ref().unwrap().contains("further failures of this user are only counted"));

        // With the next event once the minute is over, those that were left out are told of; the next minute is another.
        recorder.record_at(start + PERIOD, &by(0), &Ok(()));
        recorder.record_at(start + PERIOD, &by(4001), &refused());
        recorder.finish();
        let events = read(&recorder);
        let [.., left_out, _, again] = &events[..] else { panic!("{events:?}") };
        let told: Vec<_> = events.iter().filter(|event| event.verb == "failures left out").collect();
        assert_eq!(told, [left_out]);
        assert_eq!(
            (left_out.uid, left_out.pid, left_out.result.as_str()),
            (Some(4001), None, "NotPermitted")
        );
        assert_eq!(
            left_out.message.as_deref(),
            Some("120 failures of this user in a minute are not recorded one by one")
        );
        assert!(fields(left_out).contains(" actor=uid:4001 "), "{}", fields(left_out));
        assert_eq!((again.uid, again.verb.as_str()), (Some(4001), "open"));
    }

    #[test]
    fn failures_that_were_left_out_are_told_to_who_reads_and_before_the_daemon_ends() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::open(directory.path().join("events"), Bounds::default()).unwrap();
        let told = || read(&recorder).iter().filter(|event| event.verb == "failures left out").count();
        let flood = |begin| {
            (0..=MOST_FAILURES).for_each(|_| recorder.record_at(begin, &by(4001), &refused()));
        };
        flood(Instant::now());
        assert_eq!(told(), 0, "its minute is not over");
        recorder.finish();
        assert_eq!(told(), 1);
        flood(Instant::now().checked_sub(PERIOD).expect("a machine that runs for a minute"));
        assert_eq!(told(), 2);
    }

    /// A record as it is in the event log and in the daemon's log, with everything that it can have.
    #[test]
    fn a_full_record_has_every_field_in_both_logs() {
        let directory = tempfile::tempdir().unwrap();
        let recorder = Recorder::open(directory.path().join("events"), Bounds::default()).unwrap();
        let uuid = "6b5e4c0e-a1d5-4f6a-8c1b-7e119961dd3c";
        let action = Action {
            actor: Some((4001, 77)),
            volume: Some("vm1".into()),
            uuid: Some(uuid.parse().unwrap()),
            provider: Some("vault".into()),
            kek_id: Some("12".into()),
            server: Some("kms1:5696".into()),
            note: Some("as asked".into()),
            ..Action::own("rekey")
        };
        recorder.record(&action, &Ok(()));
        let file = std::fs::read_dir(directory.path().join("events")).unwrap().next().unwrap().unwrap();
        let line = std::fs::read_to_string(file.path()).unwrap();
        let record: serde_json::Value = serde_json::from_str(&line).unwrap();
        let time = record["time"].as_str().unwrap();
        assert!(time.parse::<Timestamp>().is_ok() && time.len() == 27, "{time}");
        let expected = serde_json::json!({
            "time": time, "uid": 4001, "pid": 77, "verb": "rekey", "volume": "vm1", "uuid": uuid,
            "provider": "vault", "kek_id": "12", "server": "kms1:5696", "result": "ok", "message": "as asked",
        });
        assert_eq!(record, expected);
        let (first, second) = (
            format!(r#"verb="rekey" actor=uid:4001/pid:77 result=ok volume="vm1" uuid="{uuid}""#),
            r#"provider="vault" kek="12" server="kms1:5696" message="as asked""#,
        );
        assert_eq!(fields(&serde_json::from_value(record).unwrap()), format!("{first} {second}"));
    }

    /// Runs `work` on an empty file system of `kib` KiB, which this thread alone sees.
    fn on_a_small_disk(kib: u32, work: impl FnOnce(&std::path::Path) + Send) {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("NOT RUN, for it takes root: a full disk");
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mounted = || {
            const NONE: Option<&str> = None;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
            mount(NONE, path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={kib}k").as_str()))
                .unwrap();
            work(path);
        };
        std::thread::scope(|scope| scope.spawn(mounted).join().unwrap());
    }

    #[test]
    fn a_full_disk_stops_nothing_and_what_it_cost_is_told() {
        on_a_small_disk(64, |disk| {
            let filler = disk.join("filler");
            let recorder = Recorder::open(disk.join("events"), Bounds::default()).unwrap();
            recorder.record(&by(1), &Ok(()));
            assert_eq!(recorder.problem(), None);
            std::fs::write(&filler, [0; 40 << 10]).unwrap();
            // Longer than what is free, so that lines are cut within.
            let long = Action { note: Some("x".repeat(1000)), ..by(2) };
            (0..40).for_each(|_| recorder.record(&long, &Ok(())));
            let written = read(&recorder).len() as u64;
            let lost = 41 - written;
            assert!(lost > 10 && written > 5, "{written}");
            let problem = recorder.problem().unwrap();
            assert!(
                problem.starts_with(&format!("{lost} events are in the daemon's log only: No space left")),
                "{problem}"
            );

            std::fs::remove_file(&filler).unwrap();
            recorder.record(&by(3), &Ok(()));
            assert_eq!(recorder.problem(), None);
            let events = read(&recorder);
            let [.., gap, last] = &events[..] else { panic!("{events:?}") };
            assert_eq!((gap.verb.as_str(), gap.uid), ("events lost", None));
            assert_eq!(gap.message, Some(problem));
            assert_eq!((last.uid, events.len() as u64), (Some(3), written + 2));
            let again = Recorder::open(disk.join("events"), Bounds::default()).unwrap();
            assert_eq!(read(&again), events);
        });
    }
}
