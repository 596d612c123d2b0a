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
/// Failures of one user, root but for, that are recorded in [`PERIOD`]: nobody is to drown what others did.
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
    /// With which key server.
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
            server: self.server.clone(),
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
        let mut state = self.state();
        let failures = match (action.actor, result) {
            (Some((uid, _)), Err(_)) if uid != 0 => state.failures.count(uid, Instant::now()),
            _ => 0,
        };
        if failures > MOST_FAILURES {
            return;
        }
        let mut event = action.ended(result);
        if failures == MOST_FAILURES {
            let message = event.message.unwrap_or_default();
            event.message =
                Some(format!("{message}; further failures of this user are not recorded for a while"));
        }
        state.write(&event);
        self.grown.notify_all();
    }

    /// What keeps events from the disk, where something does.
    pub fn problem(&self) -> Option<String> {
        let (reason, count) = self.state().lost.clone()?;
        Some(format!("{count} events are in the daemon's log only: {reason}"))
    }

    /// What reads the log as it is now, or as it is once it reaches beyond `after`, for which it waits `limit`.
    pub fn reader(&self, after: u64, limit: Duration) -> Reader {
        let state = self.grown.wait_timeout_while(self.state(), limit, |state| state.log.end() <= after);
        state.unwrap_or_else(PoisonError::into_inner).0.log.reader()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere can have left a line that is torn at worst, which the log knows how to go on after.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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

/// How many failures each user had of late.
#[derive(Default)]
struct FailureCounts(HashMap<u32, (Instant, u32)>);

impl FailureCounts {
    /// Counts a failure of `uid`, and returns which one of its period it is.
    fn count(&mut self, uid: u32, now: Instant) -> u32 {
        self.0.retain(|_, (since, _)| now.duration_since(*since) < PERIOD);
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
        assert_eq!(counts.count(1, start + PERIOD - Duration::from_nanos(1)), 4);
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
        for _ in 0..3 * MOST_FAILURES {
            recorder.record(&by(4001), &refused());
            recorder.record(&by(0), &refused());
            recorder.record(&by(4001), &Ok(()));
        }
        recorder.record(&by(4002), &refused());
        let events = read(&recorder);
        let count = |uid, result: &str| {
            events.iter().filter(|event| event.uid == Some(uid) && event.result == result).count() as u32
        };
        assert_eq!(count(4001, "NotPermitted"), MOST_FAILURES);
        assert_eq!((count(4001, "ok"), count(0, "NotPermitted")), (3 * MOST_FAILURES, 3 * MOST_FAILURES));
        assert_eq!(count(4002, "NotPermitted"), 1);
        let last = events.iter().rfind(|event| event.uid == Some(4001) && event.result != "ok").unwrap();
        assert!(last.message.as_ref().unwrap().contains("further failures of this user are not recorded"));
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
