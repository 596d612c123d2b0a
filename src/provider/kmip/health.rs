//! Which server to ask first: the preferred one while it is well, the last good one while it is not.

use std::time::{Duration, Instant};

/// How long a server that failed is left alone at first; each failure after it doubles the time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long it is left alone at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the past says of each server of a cluster.
#[derive(Debug)]
pub(super) struct Health {
    servers: Vec<Record>,
    last_good: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    failures: u32,
    left_alone_until: Option<Instant>,
}

impl Record {
    fn is_ready(&self, now: Instant) -> bool {
        self.left_alone_until.is_none_or(|until| until <= now)
    }
}

impl Health {
    /// Of `servers` servers that nothing is known of.
    pub fn new(servers: usize) -> Self {
        Self { servers: vec![Record::default(); servers], last_good: None }
    }

    /// All servers, in the order in which they are to be tried. Those that have failed lately come last, and of those
    /// that may be well again only one comes before the last good one, for each may cost a time limit.
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let unproven = |&at: &usize| self.servers[at].failures > 0;
        let (ready, paused): (Vec<usize>, Vec<usize>) =
            (0..self.servers.len()).partition(|&at| self.servers[at].is_ready(now));
        let mut order = ready;
        let good = self.last_good.and_then(|good| order.iter().position(|&at| at == good));
        let doubtful = good.and_then(|place| order[..place].iter().position(unproven));
        if let (Some(good), Some(doubtful)) = (good, doubtful) {
            // Right after the first doubtful one.
            order[doubtful + 1..=good].rotate_right(1);
        }
        order.extend(paused);
        order
    }

    /// The servers beside `server` that there is no reason to leave alone.
    pub fn others(&self, server: usize, now: Instant) -> Vec<usize> {
        (0..self.servers.len()).filter(|&at| at != server && self.servers[at].is_ready(now)).collect()
    }

    /// Remembers that a server answered. Returns whether that is another one than the last time, or one that has failed
    /// since.
    pub fn answered(&mut self, server: usize) -> bool {
        let record = std::mem::take(&mut self.servers[server]);
        let before = self.last_good.replace(server);
        record.failures > 0 || before.is_some_and(|before| before != server)
    }

    /// Remembers that a server failed. Returns whether it has not since it answered last.
    pub fn failed(&mut self, server: usize, now: Instant) -> bool {
        let record = &mut self.servers[server];
        let pause = FIRST_PAUSE.saturating_mul(1 << record.failures.min(16)).min(LONGEST_PAUSE);
        record.failures += 1;
        record.left_alone_until = Some(now + pause);
        record.failures == 1
    }

    /// Whether every server failed when it was last asked.
    pub fn all_failed(&self) -> bool {
        self.servers.iter().all(|record| record.failures > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_preferred_server_is_first_again_once_its_pause_is_over() {
        let (mut health, start) = (Health::new(3), Instant::now());
        assert_eq!(health.order(start), [0, 1, 2]);
        health.failed(0, start);
        assert!(!health.answered(1), "nothing answered before, and it has not failed");
        assert_eq!(health.order(start), [1, 2, 0]);
        assert_eq!(health.order(start + SECOND), [0, 1, 2]);
        assert!(health.answered(0), "it is another one again");
        assert_eq!(health.order(start), [0, 1, 2]);
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let (mut health, mut now) = (Health::new(2), Instant::now());
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.failed(0, now);
            assert_eq!(health.order(now + SECOND * pause - Duration::from_millis(1)), [1, 0], "{pause}");
            assert_eq!(health.order(now + SECOND * pause), [0, 1], "{pause}");
            now += SECOND * 100;
        }
    }

    #[test]
    fn one_doubtful_server_at_most_is_tried_before_the_last_good_one() {
        let (mut health, start) = (Health::new(4), Instant::now());
        for server in [0, 1, 2] {
            health.failed(server, start);
        }
        health.answered(3);
        assert_eq!(health.order(start), [3, 0, 1, 2]);
        assert_eq!(health.order(start + SECOND), [0, 3, 1, 2]);
        health.failed(0, start + SECOND);
        assert_eq!(health.order(start + SECOND), [1, 3, 2, 0]);
    }

    #[test]
    fn the_other_servers_are_those_that_are_not_left_alone() {
        let (mut health, now) = (Health::new(3), Instant::now());
        assert_eq!([0, 1].map(|server| health.others(server, now)), [vec![1, 2], vec![0, 2]]);
        health.failed(0, now);
        assert_eq!([0, 1].map(|server| health.others(server, now)), [vec![1, 2], vec![2]]);
        assert!(Health::new(1).others(0, now).is_empty());
    }

    #[test]
    fn a_failure_is_news_once_and_so_is_its_end() {
        let (mut health, now) = (Health::new(1), Instant::now());
        assert_eq!([0, 0].map(|server| health.failed(server, now)), [true, false]);
        assert_eq!([0, 0].map(|server| health.answered(server)), [true, false]);
        assert!(health.failed(0, now));
    }

    #[test]
    fn all_have_failed_until_one_answers() {
        let (mut health, now) = (Health::new(2), Instant::now());
        assert!(!health.all_failed());
        health.failed(0, now);
        assert!(!health.all_failed());
        health.failed(1, now);
        assert!(health.all_failed());
        health.answered(1);
        assert!(!health.all_failed());
    }
}
