//! Volumes that wait: what is to be opened, or is quiesced, is tried again until it is live, or that is known not to help.
//!
//! A provider that fails fails for all its volumes, so that there is one pause a provider, which doubles with each failure
//! and ends at once when somebody unlocks the provider. What fails for another reason has a pause of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use serde_json::json;

use super::Daemon;
use super::devices::{Device, remove_file};
use super::events::Action;
use crate::atomic_file;
use crate::control::{DeviceOptions, Failure, FailureKind};
use crate::name::Name;
use crate::provider::ProviderName;
use crate::volume::State;

/// The pause after the first failure; each further one doubles it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the other volumes of a provider wait for one that is being tried: its disk may not answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Volumes of one provider that are tried at a time.
const AT_ONCE: usize = 16;
/// Bytes of the longest record of a wish.
const RECORD_LIMIT: u64 = 64 << 10;

/// That a volume without a device is to get one.
#[derive(Clone)]
pub(super) struct Wish {
    /// What the device is to be like.
    pub options: DeviceOptions,
    /// Why there is none yet.
    pub why: String,
}

/// The volumes that wait, by the provider of their KEKs. Each provider in here has a thread that tries again.
#[derive(Default)]
pub(super) struct Waiting {
    queues: Mutex<BTreeMap<ProviderName, Queue>>,
    woken: Condvar,
    /// Those that wait for something else than a provider. Each has a thread that tries again.
    others: Mutex<BTreeSet<Name>>,
}

#[derive(Default)]
struct Queue {
    names: BTreeSet<Name>,
    is_woken: bool,
}

/// What a pause ended with.
#[derive(Debug, PartialEq, Eq)]
enum Pause {
    /// Its time was over.
    Over,
    /// Somebody woke who paused.
    Woken,
    /// Nothing waits for the provider any more.
    Needless,
}

/// What came of trying a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// Its KEK is not to be had.
    Locked,
    /// It is live, or waits for something else, or for nothing any more.
    Done,
    /// It takes long.
    UnderWay,
}

impl Waiting {
    /// Has `name` wait for `provider`. Says whether it is the first to do so.
    fn add(&self, provider: &ProviderName, name: &Name) -> bool {
        let mut queues = self.queues();
        let is_first = !queues.contains_key(provider);
        queues.entry(provider.clone()).or_default().names.insert(name.clone());
        is_first
    }

    fn remove(&self, provider: &ProviderName, name: &Name) {
        if let Some(queue) = self.queues().get_mut(provider) {
            queue.names.remove(name);
        }
    }

    fn has(&self, name: &Name) -> bool {
        self.queues().values().any(|queue| queue.names.contains(name))
    }

    fn of(&self, provider: &ProviderName) -> BTreeSet<Name> {
        self.queues().get(provider).map(|queue| queue.names.clone()).unwrap_or_default()
    }

    /// Ends the pause of `provider`, whose KEKs may be to be had now.
    fn wake(&self, provider: &ProviderName) {
        if let Some(queue) = self.queues().get_mut(provider) {
            queue.is_woken = true;
        }
        self.woken.notify_all();
    }

    fn pause(&self, provider: &ProviderName, limit: Duration) -> Pause {
        let mut queues = self.queues();
        if queues.get(provider).is_none_or(|queue| queue.names.is_empty()) {
            queues.remove(provider);
            return Pause::Needless;
        }
        let sleeps = |queues: &mut BTreeMap<ProviderName, Queue>| {
            queues.get(provider).is_some_and(|queue| !queue.is_woken)
        };
        let (mut queues, _) =
            self.woken.wait_timeout_while(queues, limit, sleeps).unwrap_or_else(PoisonError::into_inner);
        let is_woken = queues.get_mut(provider).is_some_and(|queue| std::mem::take(&mut queue.is_woken));
        if is_woken { Pause::Woken } else { Pause::Over }
    }

    fn others(&self) -> MutexGuard<'_, BTreeSet<Name>> {
        // A panic elsewhere cannot have left them half changed.
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Queue>> {
        // A panic elsewhere cannot have left them half changed.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after this one.
pub(super) fn longer(pause: Duration) -> Duration {
    (2 * pause).clamp(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Whether the KEK was not to be had, though it may be later.
pub(super) fn is_locked<T>(result: &Result<T, Failure>) -> bool {
    matches!(result, Err(failure) if failure.kind == FailureKind::Locked)
}

impl Daemon {
    /// Leaves the volume `name` to be opened as soon as its KEK is to be had, and says so, and why it was not.
    pub(super) fn open_later(
        self: &Arc<Self>,
        name: &Name,
        options: &DeviceOptions,
        why: &Failure,
    ) -> Result<Failure, Failure> {
        let record = self.options.wish_record(name);
        atomic_file::replace(&record, json!(options).to_string().as_bytes()).map_err(|error| {
            Failure::new(FailureKind::System, format!("cannot write {}: {error}", record.display()))
        })?;
        self.wishes().insert(name.clone(), Wish { options: options.clone(), why: why.message.clone() });
        self.wait_for_kek(name);
        let message = format!("{why}; the volume stays locked and opens once its key is to be had");
        let close = format!("'blkseal close {name}' leaves it locked");
        let hint = why.hint.as_ref().map_or_else(|| close.clone(), |hint| format!("{hint}; {close}"));
        Ok(Failure::new(FailureKind::Waiting, message).hint(hint))
    }

    /// Forgets that the volume `name` is to be opened. Says whether it was.
    pub(super) fn forget_wish(&self, name: &Name) -> bool {
        let was_wanted = self.wishes().remove(name).is_some();
        if was_wanted {
            remove_file(&self.options.wish_record(name));
        }
        was_wanted
    }

    /// Takes over what an earlier daemon was to open.
    pub(super) fn take_over_wishes(self: &Arc<Self>) {
        for entry in fs::read_dir(self.options.wishes_dir()).into_iter().flatten().flatten() {
            let name = || entry.path().file_stem()?.to_str()?.parse::<Name>().ok();
            let options = || {
                let bytes = atomic_file::read_limited(&entry.path(), RECORD_LIMIT).ok()?;
                serde_json::from_slice::<DeviceOptions>(&bytes).ok()
            };
            match name().filter(|name| self.volumes().get(name).is_some()).zip(options()) {
                Some((name, options)) => {
                    let why = "its key was not to be had when an earlier daemon tried".into();
                    self.wishes().insert(name.clone(), Wish { options, why });
                    self.wait_for_kek(&name);
                }
                None => remove_file(&entry.path()),
            }
        }
    }

    /// Has the volume `name`, which is to be opened or is quiesced, tried again until its KEK is to be had.
    pub(super) fn wait_for_kek(self: &Arc<Self>, name: &Name) {
        let Some(provider) = self.volumes().get(name).map(|known| known.provider.clone()) else { return };
        if self.waiting.add(&provider, name) {
            let daemon = Arc::clone(self);
            std::thread::spawn(move || daemon.keep_trying(&provider));
        }
    }

    /// Tries at once with everything that waits for `provider`, and with every quiesced volume whose KEK is its.
    pub(super) fn go_on_with(self: &Arc<Self>, provider: &ProviderName) {
        let mut names: Vec<Name> = self.volumes().of_provider(provider).cloned().collect();
        names.retain(|name| {
            matches!(self.devices().get(name), Some(Device { state: State::Quiesced(_), .. }))
        });
        names.iter().for_each(|name| self.wait_for_kek(name));
        self.waiting.wake(provider);
    }

    /// Whether the volume `name` waits for its KEK.
    pub(super) fn waits_for_kek(&self, name: &Name) -> bool {
        self.waiting.has(name)
    }

    /// Has the volume `name`, which is to be opened or is quiesced and failed for another reason than its KEK, tried again after
    /// `pause`, and then until that cannot help any more.
    pub(super) fn retry_later(self: &Arc<Self>, name: &Name, pause: Duration) {
        if !self.waiting.others().insert(name.clone()) {
            return;
        }
        let (daemon, name) = (Arc::clone(self), name.clone());
        std::thread::spawn(move || {
            let mut pause = pause;
            loop {
                std::thread::sleep(pause);
                let _turn = daemon.turns.take(&name);
                match daemon.try_now(&name) {
                    Err(failure) if failure.kind != FailureKind::Locked && !failure.is_final => {}
                    result => {
                        daemon.waiting.others().remove(&name);
                        if is_locked(&result) {
                            daemon.wait_for_kek(&name);
                        }
                        return;
                    }
                }
                pause = longer(pause);
            }
        });
    }

    /// Tries until nothing waits for `provider` any more.
    fn keep_trying(self: &Arc<Self>, provider: &ProviderName) {
        let mut pause = FIRST_PAUSE;
        let under_way = Arc::new(Mutex::new(BTreeSet::new()));
        loop {
            match self.waiting.pause(provider, pause) {
                Pause::Over => pause = longer(pause),
                Pause::Woken => pause = FIRST_PAUSE,
                Pause::Needless => return,
            }
            for name in self.waiting.of(provider) {
                if self.try_aside(provider, name, &under_way) == Tried::Locked {
                    break; // and the others would be, too
                }
            }
        }
    }

    /// Tries on a thread of its own, and does not wait for long.
    fn try_aside(
        self: &Arc<Self>,
        provider: &ProviderName,
        name: Name,
        under_way: &Arc<Mutex<BTreeSet<Name>>>,
    ) -> Tried {
        // A panic elsewhere cannot have left them half changed.
        let lock = |names: &Arc<Mutex<BTreeSet<Name>>>, change: &dyn Fn(&mut BTreeSet<Name>) -> bool| {
            change(&mut names.lock().unwrap_or_else(PoisonError::into_inner))
        };
        if !lock(under_way, &|names| names.len() < AT_ONCE && names.insert(name.clone())) {
            return Tried::UnderWay;
        }
        let (sender, receiver) = mpsc::channel();
        let (daemon, provider, under_way) = (Arc::clone(self), provider.clone(), Arc::clone(under_way));
        std::thread::spawn(move || {
            let is_locked = is_locked(&daemon.try_again(&provider, &name));
            lock(&under_way, &|names| names.remove(&name));
            // Nobody listens any more if it took long.
            let _ = sender.send(if is_locked { Tried::Locked } else { Tried::Done });
        });
        receiver.recv_timeout(PATIENCE).unwrap_or(Tried::UnderWay)
    }

    fn try_again(self: &Arc<Self>, provider: &ProviderName, name: &Name) -> Result<(), Failure> {
        let _turn = self.turns.take(name);
        let result = self.try_now(name);
        if !is_locked(&result) {
            self.waiting.remove(provider, name);
        }
        result
    }

    /// Tries to make the volume `name` live, if it is quiesced or wanted. The caller has its turn.
    fn try_now(self: &Arc<Self>, name: &Name) -> Result<(), Failure> {
        let state = self.devices().get(name).map(|device| device.state.clone());
        match state {
            Some(State::Quiesced(_)) => self.replace_worker(name),
            Some(_) => Ok(()),
            None => self.open_wanted(name),
        }
    }

    /// Opens the volume `name` if that is still wanted. Where its KEK is not to be had, or the same failed before, that is no news.
    fn open_wanted(self: &Arc<Self>, name: &Name) -> Result<(), Failure> {
        let Some(wish) = self.wishes().get(name).cloned() else { return Ok(()) };
        let mut action = Action { volume: Some(name.to_string()), ..Action::own("open") };
        let opened = self.open_now(name, &wish.options, &mut action).map(|_| ());
        match &opened {
            Err(why) if why.kind == FailureKind::Locked || !why.is_final => {
                if why.kind != FailureKind::Locked {
                    if why.message != wish.why {
                        self.recorder.record(&action, &opened);
                    }
                    self.retry_later(name, FIRST_PAUSE);
                }
                self.wishes().insert(name.clone(), Wish { why: why.message.clone(), ..wish });
            }
            _ => {
                self.forget_wish(name);
                self.recorder.record(&action, &opened);
            }
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses = std::iter::successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause)));
        let seconds: Vec<u64> = pauses.take(7).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_pause_ends_with_its_time_or_when_its_provider_is_woken_or_nothing_waits() {
        let (waiting, name) = (Arc::new(Waiting::default()), "vol".parse().unwrap());
        let (office, lab): (ProviderName, ProviderName) = ("office".parse().unwrap(), "lab".parse().unwrap());
        assert!(waiting.add(&office, &name) && !waiting.add(&office, &name) && waiting.has(&name));
        assert_eq!(waiting.pause(&office, Duration::ZERO), Pause::Over);

        let (sender, receiver) = mpsc::channel();
        let (pausing, paused) = (Arc::clone(&waiting), office.clone());
        std::thread::spawn(move || sender.send(pausing.pause(&paused, Duration::from_secs(3600))));
        waiting.wake(&lab);
        assert!(receiver.recv_timeout(Duration::from_millis(100)).is_err(), "another provider's");
        waiting.wake(&office);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(Pause::Woken));

        waiting.wake(&office); // while nobody pauses
        assert_eq!(waiting.pause(&office, Duration::from_secs(3600)), Pause::Woken);
        assert_eq!(waiting.pause(&office, Duration::ZERO), Pause::Over);
        waiting.remove(&office, &name);
        assert_eq!(waiting.pause(&office, Duration::from_secs(3600)), Pause::Needless);
        assert!(waiting.add(&office, &name), "the next is the first again");
    }
}
