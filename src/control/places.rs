//! Who is connected, and who gives way where there are too many.
//!
//! Users who may do nothing, users with a role, and root have places of their own each, so none of them keeps the others out.
//! Where theirs are taken, one gives way: first a connection whose peer is gone, then the one that has waited longest
//! for a call; one with a call under way whose caller waits only to root.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::geteuid;

/// Most calls under way at a time whose callers have gone, unless root's own calls take their places.
const MAX_ABANDONED: usize = 64;
/// How often the log says that connections are refused.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What a peer is to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// May do nothing that the service does.
    Stranger,
    /// May do something.
    Known,
    /// Is root, or the user of this process.
    Own,
}

impl Standing {
    pub fn of(uid: u32, is_known: bool) -> Self {
        match uid {
            0 => Self::Own,
            uid if uid == geteuid().as_raw() => Self::Own,
            _ if is_known => Self::Known,
            _ => Self::Stranger,
        }
    }

    /// Most connections of this standing, all users together, and of one user.
    fn most(self) -> (usize, usize) {
        match self {
            Self::Stranger => (8, 4),
            Self::Known => (40, 8),
            Self::Own => (64, 64),
        }
    }
}

/// The connections that there are.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    connections: BTreeMap<u64, Connection>,
    next: u64,
    /// Connections that gave way within a call that is still under way.
    abandoned: BTreeSet<u64>,
    told: Option<Instant>,
}

struct Connection {
    uid: u32,
    standing: Standing,
    stream: UnixStream,
    /// Whether a call is under way, and since when it is, or none.
    is_calling: bool,
    since: Instant,
}

impl Connection {
    /// Whether nobody is at the other end any more. Who has only ended its own side still waits for answers.
    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

/// A connection's place, given back when dropped.
pub(super) struct Place {
    places: Places,
    number: u64,
}

impl Places {
    /// A place for the connection `stream` of user `uid`; none where nobody gives way to it.
    pub fn take(&self, uid: u32, standing: Standing, stream: &UnixStream) -> io::Result<Option<Place>> {
        let stream = stream.try_clone()?;
        let mut table = self.table();
        while let Some(rivals) = table.rivals(uid, standing) {
            match table.giving_way(&rivals, standing) {
                Some(number) => table.end(number),
                None => return Ok(None),
            }
        }
        let number = table.next;
        table.next += 1;
        let since = Instant::now();
        table.connections.insert(number, Connection { uid, standing, stream, is_calling: false, since });
        Ok(Some(Place { places: self.clone(), number }))
    }

    /// Whether the log is to say now that one was refused.
    pub fn is_to_be_told(&self) -> bool {
        let mut table = self.table();
        let is_due = table.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if is_due {
            table.told = Some(Instant::now());
        }
        is_due
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere cannot have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Where a limit is reached for `uid`: the connections one of which has to give way.
    fn rivals(&self, uid: u32, standing: Standing) -> Option<Vec<u64>> {
        let of = |is_one: &dyn Fn(&Connection) -> bool| -> Vec<u64> {
            self.connections.iter().filter(|(_, other)| is_one(other)).map(|(number, _)| *number).collect()
        };
        let (most, most_of_one) = standing.most();
        let of_user = of(&|other| other.uid == uid && other.standing == standing);
        if of_user.len() >= most_of_one {
            return Some(of_user);
        }
        let of_standing = of(&|other| other.standing == standing);
        (of_standing.len() >= most).then_some(of_standing)
    }

    fn giving_way(&self, rivals: &[u64], standing: Standing) -> Option<u64> {
        let may_abandon = standing == Standing::Own || self.abandoned.len() < MAX_ABANDONED;
        let rivals = rivals.iter().filter_map(|number| Some((*number, self.connections.get(number)?)));
        let rank = |connection: &Connection| match connection {
            other if (may_abandon || !other.is_calling) && other.is_gone() => Some(0),
            other if !other.is_calling => Some(1),
            _ if standing == Standing::Own => Some(2),
            _ => None,
        };
        rivals
            .filter_map(|(number, other)| Some(((rank(other)?, other.since), number)))
            .min()
            .map(|(_, number)| number)
    }

    /// Takes the place of a connection. Its thread ends at once, or with the call that is under way.
    fn end(&mut self, number: u64) {
        let Some(connection) = self.connections.remove(&number) else { return };
        self.abandoned.extend(connection.is_calling.then_some(number));
        // Fails where the peer is gone, which is as good.
        let _ = connection.stream.shutdown(Shutdown::Both);
    }
}

impl Place {
    /// Runs a call that has come over this connection; not where that has given way already.
    pub fn during<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        self.mark(true).then(|| {
            let answer = call();
            self.mark(false);
            answer
        })
    }

    /// Notes whether a call is under way; says whether the connection has its place still.
    fn mark(&self, is_calling: bool) -> bool {
        let mut table = self.places.table();
        table.abandoned.remove(&self.number);
        let connection = table.connections.get_mut(&self.number);
        connection
            .map(|connection| (connection.is_calling, connection.since) = (is_calling, Instant::now()))
            .is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.table();
        table.connections.remove(&self.number);
        table.abandoned.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection, and the end at which its peer is.
    fn connect(places: &Places, uid: u32, standing: Standing) -> Option<(Place, UnixStream)> {
        let (ours, peer) = UnixStream::pair().unwrap();
        places.take(uid, standing, &ours).unwrap().map(|place| (place, peer))
    }

    fn calling(places: &Places, uid: u32, standing: Standing) -> Option<(Place, UnixStream)> {
        connect(places, uid, standing).inspect(|(place, _)| assert!(place.mark(true)))
    }

    fn has_place(place: &Place) -> bool {
        place.places.table().connections.contains_key(&place.number)
    }

    #[test]
    fn strangers_and_role_holders_shut_out_neither_each_other_nor_root() {
        let places = Places::default();
        let mut all: Vec<_> =
            (100..120).filter_map(|uid| calling(&places, uid, Standing::Stranger)).collect();
        assert_eq!(all.len(), 8);
        all.extend(
            (200..220).flat_map(|uid| [uid; 10]).filter_map(|uid| calling(&places, uid, Standing::Known)),
        );
        assert_eq!(all.len(), 48);
        let count = |uid| places.table().connections.values().filter(|other| other.uid == uid).count();
        assert_eq!([200, 201, 204, 205].map(count), [8, 8, 8, 0]);
        let roots: Vec<_> =
            (0..200).map(|_| calling(&places, 0, Standing::Own).expect("root gets in")).collect();
        assert_eq!(places.table().connections.len(), 48 + 64);
        assert!(has_place(&roots[199].0) && all.iter().all(|(place, _)| has_place(place)));
        drop((all, roots));
        assert!(places.table().connections.is_empty());
    }

    #[test]
    fn who_sends_nothing_gives_way_and_the_longest_first() {
        let places = Places::default();
        let old: Vec<_> = (0..64).map(|_| connect(&places, 0, Standing::Own).unwrap()).collect();
        old[0].0.during(|| ()).unwrap();
        let new = connect(&places, 0, Standing::Own).unwrap();
        assert!(has_place(&new.0) && has_place(&old[0].0) && !has_place(&old[1].0));
        assert_eq!(old[1].0.during(|| ()), None, "a call that comes too late is not carried out");
        assert_eq!(io::Read::read(&mut &old[1].1, &mut [0]).unwrap(), 0, "its peer is told at once");
        // Of a user's own, not of another's.
        let mine: Vec<_> = (0..4).map(|_| connect(&places, 300, Standing::Stranger).unwrap()).collect();
        let other = connect(&places, 301, Standing::Stranger).unwrap();
        connect(&places, 300, Standing::Stranger).unwrap();
        assert!(!has_place(&mine[0].0) && has_place(&other.0));
    }

    #[test]
    fn a_call_whose_caller_is_gone_gives_way_and_a_bound_holds() {
        let places = Places::default();
        let mut under_way = Vec::new();
        for _ in 0..8 + MAX_ABANDONED {
            let (place, peer) = calling(&places, 200, Standing::Known).unwrap();
            drop(peer);
            under_way.push(place);
        }
        assert!(calling(&places, 200, Standing::Known).is_none(), "threads are bounded");
        let roots: Vec<_> =
            (0..100).map(|_| calling(&places, 0, Standing::Own).expect("root gets in")).collect();
        assert!(has_place(&roots[99].0));
        drop(roots);
        // One of the calls is done.
        drop(under_way.remove(0));
        assert!(calling(&places, 200, Standing::Known).is_some());
    }

    #[test]
    fn who_has_only_ended_its_own_side_waits_for_an_answer() {
        let places = Places::default();
        let all: Vec<_> = (0..8).map(|_| calling(&places, 200, Standing::Known).unwrap()).collect();
        all.iter().for_each(|(_, peer)| peer.shutdown(Shutdown::Write).unwrap());
        assert!(calling(&places, 200, Standing::Known).is_none());
    }
}
