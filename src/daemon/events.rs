//! One record for each change and refusal: who did what to which volume, with which key, and how it ended. The one place
//! where they are written: to the daemon's log and to the event log on disk.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
/// Events that may wait for the disk; where there are more, they are in the daemon's log only.
const MOST_PENDING: usize = 256;
/// How long they may, before calls are answered although their events are not on the disk.
const DISK_LIMIT: Duration = Duration::from_secs(5);

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
///
/// A thread of its own writes them to the disk, in their order, so that nobody who only looks, and nothing that supervises, waits
/// for a slow disk. Who asked for something is answered once its event is on the disk, or has waited for that too long.
pub(super) struct Recorder(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// How long events may wait for the disk before nobody waits for them any more.
    limit: Duration,
}

struct State {
    /// Events that are not on the disk yet, and since when they wait: [`MOST_PENDING`] at most.
    pending: VecDeque<(Instant, Event)>,
    /// How many were in there before, and are on the disk now or lost.
    done: u64,
    /// The log as it is on the disk.
    on_disk: Reader,
    /// Why events could not be written, and how many, since one was.
    lost: Option<(String, u64)>,
    failures: FailureCounts,
    /// Whether nobody records any more.
    is_over: bool,
}

impl Recorder {
    /// Records to the event log in `directory`.
    pub fn open(directory: PathBuf, bounds: Bounds) -> Result<Self, Failure> {
        Self::open_with(directory, bounds, DISK_LIMIT)
    }

    fn open_with(directory: PathBuf, bounds: Bounds, limit: Duration) -> Result<Self, Failure> {
        let failed = |error: io::Error| {
            let message = format!("cannot use the event log in {}: {error}", directory.display());
            Failure::new(FailureKind::System, message)
        };
        let log = EventLog::open(directory.clone(), bounds).map_err(failed)?;
        if log.is_torn() {
            log::warn!("the last event in {} is incomplete, as after a crash", directory.display());
        }
        let state = State {
            pending: VecDeque::new(),
            done: 0,
            on_disk: log.reader(),
            lost: None,
            failures: FailureCounts::default(),
            is_over: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), limit });
        let writer = Arc::clone(&shared);
        let write = move || writer.write_to(log);
        std::thread::Builder::new().name("events".into()).spawn(write).map_err(failed)?;
        Ok(Self(shared))
    }

    /// Records that `action` ended with `result`, and waits until that is on the disk where somebody asked for the
    /// action. An event that cannot be written there is in the daemon's log all the same, changes nothing for its cause,
    /// and is told of by [`Recorder::problem`] and a later event.
    pub fn record<T>(&self, action: &Action, result: &Result<T, Failure>) {
        self.record_at(Instant::now(), action, result);
    }

    fn record_at<T>(&self, now: Instant, action: &Action, result: &Result<T, Failure>) {
        let mut state = self.0.state();
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
        state.add(event);
        self.0.changed.notify_all();
        if action.actor.is_some() {
            drop(self.0.wait_for_disk(state));
        }
    }

    /// Records how many failures were left out, as before the end of the daemon, which is the last to know, and waits until
    /// all is on the disk.
    pub fn finish(&self) {
        let mut state = self.0.state();
        state.tell_left_out(Instant::now() + PERIOD);
        self.0.changed.notify_all();
        drop(self.0.wait_for_disk(state));
    }

    /// What keeps events from the disk, where something does.
    pub fn problem(&self) -> Option<String> {
        let state = self.0.state();
        if let Some((since, _)) = state.pending.front().filter(|(since, _)| since.elapsed() >= self.0.limit) {
            let (count, seconds) = (state.pending.len(), since.elapsed().as_secs());
            return Some(format!("{count} events have been waiting for the disk for {seconds} s"));
        }
        let (reason, count) = state.lost.clone()?;
        Some(format!("{count} events are in the daemon's log only: {reason}"))
    }

    /// What reads the log as it is now, or as it is once it reaches beyond `after`, for which it waits `limit`.
    pub fn reader(&self, after: u64, limit: Duration) -> Reader {
        let mut state = self.0.state();
        state.tell_left_out(Instant::now());
        self.0.changed.notify_all();
        let state = self.0.wait_for_disk(state);
        let state = self.0.changed.wait_timeout_while(state, limit, |state| state.on_disk.end() <= after);
        state.unwrap_or_else(PoisonError::into_inner).0.on_disk.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot have left it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what is pending now is on the disk, or the first of it has been pending for too long.
    fn wait_for_disk<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let last = state.done + state.pending.len() as u64;
        let waited = state.pending.front().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        let left = self.limit.saturating_sub(waited);
        let waited = self.changed.wait_timeout_while(state, left, |state| state.done < last);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Writes what is pending to `log`, until nobody records any more.
    fn write_to(&self, mut log: EventLog) {
        let mut state = self.state();
        loop {
            let is_idle = |state: &mut State| state.pending.is_empty() && !state.is_over;
            state = self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
            let Some((_, event)) = state.pending.front() else { return };
            // Before the next event, how many could not be written.
            let told = state.lost.clone();
            let event = told.as_ref().map_or_else(|| event.clone(), lost);
            drop(state);
            let written = append(&mut log, &event);
            state = self.state();
            state.on_disk = log.reader();
            match (written, told) {
                (Ok(()), Some((_, count))) => state.told_of(count),
                (Ok(()), None) => state.pop(),
                (Err(reason), _) => {
                    state.pop();
                    state.lose(reason);
                }
            }
            self.changed.notify_all();
        }
    }
}

fn append(log: &mut EventLog, event: &Event) -> Result<(), String> {
    let line = serde_json::to_string(event).map_err(|error| error.to_string())?;
    log.append(&line).map_err(|error| error.to_string())
}

/// The event that says how many were lost, and why.
fn lost((reason, count): &(String, u64)) -> Event {
    let message = format!("{count} events are in the daemon's log only: {reason}");
    Action::own("events lost").ended::<()>(&Err(Failure::new(FailureKind::Io, message)))
}

impl State {
    /// Records how many failures each user had in the periods that are over by `now` and were not recorded one by one.
    fn tell_left_out(&mut self, now: Instant) {
        for (uid, count) in self.failures.ended(now) {
            let message = format!("{count} failures of this user in a minute are not recorded one by one");
            let action = Action::own("failures left out");
            let event = action.ended::<()>(&Err(Failure::new(FailureKind::NotPermitted, message)));
            self.add(Event { uid: Some(uid), ..event });
        }
    }

    /// Writes an event to the daemon's log, and has it written to the disk.
    fn add(&mut self, event: Event) {
        let level = if event.result == "ok" { log::Level::Info } else { log::Level::Warn };
        log::log!(target: "event", level, "{}", fields(&event));
        if self.pending.len() < MOST_PENDING {
            self.pending.push_back((Instant::now(), event));
        } else {
            self.lose("the disk is too slow".into());
        }
    }

    fn pop(&mut self) {
        self.pending.pop_front();
        self.done += 1;
    }

    fn lose(&mut self, reason: String) {
        let count = self.lost.take().map_or(0, |(_, count)| count) + 1;
        if count == 1 {
            log::error!("events cannot be written to the event log: {reason}");
        }
        self.lost = Some((reason, count));
    }

    /// Notes that `count` events that were lost have been told of.
    fn told_of(&mut self, count: u64) {
        self.lost =
            self.lost.take().filter(|(_, all)| *all > count).map(|(reason, all)| (reason, all - count));
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
    use std::os::unix::fs::OpenOptionsExt;

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

    /// The segment is a FIFO without a reader: to open it takes until there is one.
    #[test]
    fn a_disk_that_hangs_keeps_nobody_waiting_for_long_and_loses_only_what_is_too_much() {
        let directory = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(100);
        let recorder =
            Recorder::open_with(directory.path().join("events"), Bounds::default(), limit).unwrap();
        let segment = directory.path().join("events/events-00000000000000000000.jsonl");
        nix::unistd::mkfifo(&segment, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..MOST_PENDING + 10 {
            recorder.record(&by(1), &Ok(()));
        }
        assert_eq!(recorder.reader(0, Duration::ZERO).end(), 0);
        let problem = recorder.problem().unwrap();
        assert!(problem.starts_with("256 events have been waiting for the disk for "), "{problem}");
        // The disk is back: one event is lost to the FIFO, which takes no sync.
        let fifo = directory.path().join("fifo");
        std::fs::rename(&segment, &fifo).unwrap();
        let reader = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
        assert!(recorder.reader(0, Duration::from_secs(120)).end() > 0);
        recorder.record(&by(2), &Ok(()));
        let start = Instant::now();
        let mut events = read(&recorder);
        while events.last().and_then(|event| event.uid) != Some(2) {
            assert!(start.elapsed() < Duration::from_secs(120), "{:?}", recorder.problem());
            std::thread::sleep(Duration::from_millis(10));
            events = read(&recorder);
        }
        drop(reader);
        assert_eq!(events.iter().filter(|event| event.uid == Some(1)).count(), MOST_PENDING - 1);
        let told: Vec<_> = events.iter().filter(|event| event.verb == "events lost").collect();
        assert!(told.len() == 1 && told[0].message.as_ref().unwrap().starts_with("11 events "), "{told:?}");
        assert!(recorder.problem().is_none());
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
