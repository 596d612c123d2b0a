//! Questions to what may hang, a disk or a worker. Each is asked in a thread of its own, which is left behind where it gets no
//! answer in time; what such a thread asks is not asked again before it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of the stack of a thread that asks. All of it is locked, and there may be many.
const STACK: usize = 256 << 10;

/// What was asked, and answered, by key.
pub(super) struct Looks<K, T> {
    shared: Arc<Shared<K, T>>,
    limit: Duration,
}

struct Shared<K, T> {
    ask: Box<dyn Fn(&K) -> T + Send + Sync>,
    questions: Mutex<BTreeMap<K, Question<T>>>,
    answered: Condvar,
}

struct Question<T> {
    /// How often somebody wanted an answer.
    wanted: u64,
    /// The latest of these that the last answer is for.
    served: u64,
    is_under_way: bool,
    last: Option<T>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer<T> {
    /// It was asked and answered after somebody wanted to know.
    Now(T),
    /// There is no answer yet. This was the one before, if there was one.
    Late(Option<T>),
}

/// The right to one answer to each of several questions.
pub(super) struct Asked<K>(Vec<(K, u64)>);

impl<K, T> Looks<K, T>
where
    K: Clone + Ord + Send + 'static,
    T: Clone + Send + 'static,
{
    /// `ask` finds an answer, or hangs. Whoever wants several answers waits for them together, for `limit` at most.
    pub fn new(limit: Duration, ask: impl Fn(&K) -> T + Send + Sync + 'static) -> Self {
        let shared = Shared { ask: Box::new(ask), questions: Mutex::default(), answered: Condvar::new() };
        Self { shared: Arc::new(shared), limit }
    }

    /// When whoever asks now is to have answers.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// Begins to ask for each of `keys`.
    pub fn ask(&self, keys: impl IntoIterator<Item = K>) -> Asked<K> {
        Asked(keys.into_iter().map(|key| (key.clone(), self.ask_one(key))).collect())
    }

    fn ask_one(&self, key: K) -> u64 {
        let mut questions = self.shared.questions();
        let question = questions.entry(key.clone()).or_insert_with(Question::new);
        question.wanted += 1;
        let wanted = question.wanted;
        if question.is_under_way {
            return wanted; // who asks now asks again when that is over
        }
        question.is_under_way = true;
        drop(questions);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("look".into()).stack_size(STACK);
        let asker = key.clone();
        if let Err(error) = thread.spawn(move || shared.find_out(&asker)) {
            log::warn!("cannot start a thread: {error}");
            if let Some(question) = self.shared.questions().get_mut(&key) {
                question.is_under_way = false;
            }
        }
        wanted
    }

    /// The answers, in the order of the questions, as far as there are any by `deadline`.
    pub fn answers(&self, asked: &Asked<K>, deadline: Instant) -> Vec<Answer<T>> {
        asked.0.iter().map(|(key, wanted)| self.answer(key, *wanted, deadline)).collect()
    }

    fn answer(&self, key: &K, wanted: u64, deadline: Instant) -> Answer<T> {
        let is_open = |questions: &mut BTreeMap<K, Question<T>>| {
            questions.get(key).is_some_and(|question| question.served < wanted)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.shared.answered.wait_timeout_while(self.shared.questions(), left, is_open);
        let (questions, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match questions.get(key) {
            Some(Question { served, last: Some(last), .. }) if *served >= wanted => Answer::Now(last.clone()),
            Some(question) => Answer::Late(question.last.clone()),
            None => Answer::Late(None),
        }
    }

    /// Forgets the answers to all questions but `kept`. Those that are under way stay.
    pub fn keep_only(&self, kept: impl Fn(&K) -> bool) {
        self.shared.questions().retain(|key, question| question.is_under_way || kept(key));
    }
}

impl<T> Question<T> {
    fn new() -> Self {
        Self { wanted: 0, served: 0, is_under_way: false, last: None }
    }
}

impl<K: Ord, T> Shared<K, T> {
    fn questions(&self) -> MutexGuard<'_, BTreeMap<K, Question<T>>> {
        // A panic elsewhere cannot have left a question half changed.
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks until nobody has wanted to know since.
    fn find_out(&self, key: &K) {
        loop {
            let Some(wanted) = self.questions().get(key).map(|question| question.wanted) else { return };
            let answer = (self.ask)(key);
            let mut questions = self.questions();
            let Some(question) = questions.get_mut(key) else { return };
            (question.served, question.last) = (wanted, Some(answer));
            let is_over = question.wanted == wanted;
            question.is_under_way = !is_over;
            self.answered.notify_all();
            if is_over {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    /// What never comes counts as failed after this.
    const BOUND: Duration = Duration::from_secs(60);

    fn soon() -> Instant {
        Instant::now() + BOUND
    }

    #[test]
    fn any_number_of_questions_without_an_answer_leaves_the_others_theirs() {
        let (release, hung) = mpsc::channel::<()>();
        let hung = Mutex::new(hung);
        let begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&begun);
        let looks = Looks::new(BOUND, move |key: &u32| {
            if key % 2 == 1 {
                counter.fetch_add(1, Ordering::SeqCst);
                let _ = hung.lock().unwrap().recv();
            }
            key * 10
        });
        let even = looks.answers(&looks.ask([0, 2, 4]), soon());
        assert_eq!(even, [Answer::Now(0), Answer::Now(20), Answer::Now(40)]);
        for _ in 0..3 {
            // The odd ones first, and only a moment for them.
            let odd = looks.ask((0..100).map(|n| 2 * n + 1));
            let even = looks.ask([2, 4]);
            assert_eq!(looks.answers(&even, soon()), [Answer::Now(20), Answer::Now(40)]);
            let answers = looks.answers(&odd, Instant::now());
            assert!(answers.iter().all(|answer| *answer == Answer::Late(None)));
        }
        assert!(begun.load(Ordering::SeqCst) <= 100, "what is under way is not begun again");
        drop(release);
        assert_eq!(
            looks.answers(&looks.ask([7]), soon()),
            [Answer::Now(70)],
            "once they end, they are asked again"
        );
    }

    #[test]
    fn an_answer_is_never_older_than_its_question() {
        let now = Arc::new(AtomicUsize::new(0));
        let (value, (go, gate)) = (Arc::clone(&now), mpsc::channel::<()>());
        let gate = Mutex::new(gate);
        let looks = Looks::new(BOUND, move |_: &()| {
            let seen = value.load(Ordering::SeqCst);
            gate.lock().unwrap().recv().unwrap();
            seen
        });
        let first = looks.ask([()]);
        go.send(()).unwrap();
        assert_eq!(looks.answers(&first, soon()), [Answer::Now(0)]);
        let second = looks.ask([()]);
        now.store(1, Ordering::SeqCst);
        let third = looks.ask([()]); // while the second may have seen the old value already
        assert_eq!(looks.answers(&third, Instant::now()), [Answer::Late(Some(0))]);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert_eq!(looks.answers(&third, soon()), [Answer::Now(1)]);
        assert!(matches!(looks.answers(&second, soon())[..], [Answer::Now(_)]));
        looks.keep_only(|()| false);
        assert_eq!(looks.answers(&second, Instant::now()), [Answer::Late(None)]);
    }
}
