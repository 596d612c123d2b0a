//! Headers of known volumes, for whoever only looks: nothing is written to a volume, and however many do not answer, they are
//! waited for together and for a moment only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Daemon;
use super::looks::{Answer, Looks};
use crate::control::{Failure, FailureKind};
use crate::luks::{Header, LuksError, Place};
use crate::name::Name;
use crate::volume::{Known, VolumeError};

/// How long all disks together may take to show their headers to somebody who looks.
pub(super) const LOOK_LIMIT: Duration = Duration::from_millis(800);
/// How long the disk may take on which somebody wants to work.
const WORK_LIMIT: Duration = Duration::from_secs(30);

/// How often the headers of open volumes are looked at, if nobody asks.
const WATCH_PERIOD: Duration = Duration::from_secs(60);
/// What to do with an open volume that has no header any more.
pub(super) const COPY_OFF: &str = "copy its data off while it is open, or put a backup of the header back with `cryptsetup luksHeaderRestore`";

/// Whether a header will be no better when it is looked at again: it is gone, damaged or another volume's.
pub(super) fn is_final(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::BadData | FailureKind::NoInput)
}

/// What a look at a header came to.
pub(super) type Looked = Result<Header, Arc<LuksError>>;

/// What is known of a volume's header.
pub(super) struct Seen {
    /// The header as it is, or, where its backing does not answer, as it was; none where that is not known.
    pub header: Option<Header>,
    /// Why it is not the header as it is now.
    pub problem: Option<Failure>,
}

/// Headers, looked at by way of `look`, and waited for within `limit`.
pub(super) fn looks(limit: Duration, look: fn(&Place) -> Result<Header, LuksError>) -> Looks<Place, Looked> {
    Looks::new(limit, move |place: &Place| look(place).map_err(Arc::new))
}

impl Daemon {
    /// The header at `place`, for somebody who is about to work with it.
    pub(super) fn look(&self, place: &Place) -> Result<Header, Failure> {
        self.looked(place)?.map_err(|error| Failure::from(&*error))
    }

    /// The same, with the error as it is; the failure is that there is no answer.
    pub(super) fn looked(&self, place: &Place) -> Result<Looked, Failure> {
        let asked = self.headers.ask([place.clone()]);
        match self.headers.answers(&asked, Instant::now() + WORK_LIMIT).pop() {
            Some(Answer::Now(looked)) => Ok(looked),
            _ => Err(no_answer(place)),
        }
    }

    /// The headers of all known volumes that are to be had now. What they say of their KEKs is remembered, for the next time that
    /// one is not to be had.
    pub(super) fn headers(&self) -> BTreeMap<Name, Header> {
        let known: Vec<_> =
            self.volumes().iter().map(|(name, known)| (name.clone(), known.clone())).collect();
        let places: BTreeSet<Place> = known.iter().map(|(_, known)| known.place()).collect();
        self.headers.keep_only(|place| places.contains(place));
        let seen = self.look_at(&known, self.headers.deadline());
        let names = known.into_iter().map(|(name, _)| name);
        names.zip(seen).filter_map(|(name, seen)| Some((name, seen.header?))).collect()
    }

    /// The headers of these volumes, as far as they are seen by `deadline`.
    pub(super) fn look_at(&self, known: &[(Name, Known)], deadline: Instant) -> Vec<Seen> {
        let asked = self.headers.ask(known.iter().map(|(_, known)| known.place()));
        let answers = self.headers.answers(&asked, deadline);
        known.iter().zip(answers).map(|((name, known), answer)| self.seen(name, known, answer)).collect()
    }

    fn seen(&self, name: &Name, known: &Known, answer: Answer<Looked>) -> Seen {
        let is_its = |header: &Header| header.uuid == known.uuid;
        let seen = match answer {
            Answer::Now(Ok(header)) if is_its(&header) => {
                self.remember(name, &header);
                Seen { header: Some(header), problem: None }
            }
            Answer::Now(Ok(_)) => {
                let replaced = VolumeError::Replaced { name: name.clone(), backing: known.backing.clone() };
                Seen { header: None, problem: Some(replaced.into()) }
            }
            Answer::Now(Err(error)) => Seen { header: None, problem: Some(Failure::from(&*error)) },
            Answer::Late(last) => Seen {
                header: last.and_then(Result::ok).filter(is_its),
                problem: Some(no_answer(&known.place())),
            },
        };
        self.tell_of_lost_header(name, known.uuid, seen.problem.as_ref());
        seen
    }

    /// Records, once, that an open volume has lost its header.
    fn tell_of_lost_header(&self, name: &Name, uuid: Uuid, problem: Option<&Failure>) {
        let lost = problem.filter(|failure| is_final(failure) && self.devices().contains_key(name));
        let mut told = self.lost_headers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match lost {
            Some(_) => told.insert(uuid),
            None => {
                told.remove(&uuid);
                false
            }
        };
        drop(told);
        if let Some(failure) = lost.filter(|_| is_news) {
            let message = format!("{failure}; {COPY_OFF}");
            let result: Result<(), _> = Err(Failure { message, ..failure.clone() });
            self.recorder.record(&self.action_on(name.as_str(), "header lost"), &result);
        }
    }

    /// Looks at the headers of open volumes from now on, for nobody else needs them until it is too late.
    pub(super) fn watch_headers(self: &Arc<Self>) {
        let daemon = Arc::clone(self);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(WATCH_PERIOD);
                let open: BTreeSet<Name> = daemon.devices().keys().cloned().collect();
                let known: Vec<_> = open
                    .into_iter()
                    .filter_map(|name| Some((name.clone(), daemon.volumes().get(&name)?.clone())))
                    .collect();
                daemon.look_at(&known, daemon.headers.deadline());
            }
        });
    }

    /// That the volume `name` can be opened again once it is closed, as far as its header is concerned.
    pub(super) fn check_has_header(&self, name: &Name) -> Result<(), Failure> {
        let Some(known) = self.volumes().get(name).cloned() else { return Ok(()) };
        let seen = self.look_at(&[(name.clone(), known)], self.headers.deadline()).pop();
        match seen.and_then(|seen| seen.problem).filter(is_final) {
            None => Ok(()),
            Some(failure) => {
                let message = format!("volume {name} stays open, for nothing would open it again: {failure}");
                Err(Failure { message, ..failure }
                    .hint(format!("{COPY_OFF}; `blkseal close {name} --force` ends it")))
            }
        }
    }

    /// Remembers the KEK that the header of a known volume names: another host may have changed it.
    pub(super) fn remember(&self, name: &Name, header: &Header) {
        if let Err(error) = self.volumes.update(header) {
            log::warn!("volume {name}: {error}");
        }
    }
}

fn no_answer(place: &Place) -> Failure {
    let message = match place.header_path() {
        path if *path == place.backing => format!("its backing does not answer: {}", path.display()),
        path => format!(
            "its backing {} or its header {} does not answer",
            place.backing.display(),
            path.display()
        ),
    };
    Failure::new(FailureKind::Io, message).hint("check the storage that it is on; 'dmesg' may tell more")
}
