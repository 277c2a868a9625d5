//! Users: requests at a steady rate over connections that are kept, and what became of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::findings::{Finding, finding, grouped};
use crate::support::{pause, within};
use crate::user::{Asked, PATIENCE, User, Way};

/// How many users there are. Each asks again only when it was answered.
const USERS: usize = 16;

/// Users that ask until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    answers: Arc<Mutex<Vec<Answer>>>,
    users: Vec<JoinHandle<()>>,
}

/// A request and what became of it.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When it was sent.
    pub at: Instant,
    pub took: Duration,
    pub method: &'static str,
    pub way: Way,
    /// What a user would complain about, if anything.
    pub failure: Option<String>,
}

/// All answers of a load, in the order in which they were sent.
#[derive(Clone)]
pub struct Answers(Vec<Answer>);

impl Load {
    /// GETs at this rate. Every second one takes its dataserver 20 ms, so that there are always some under way.
    pub fn gets(to: SocketAddr, per_second: u32) -> Self {
        Self::start(&[to], per_second, &[Way::Kept], |n| {
            ("GET", if n % 2 == 0 { "/".into() } else { "/delay/20".into() })
        })
    }

    /// GETs at this rate that take no time.
    pub fn quick_gets(to: SocketAddr, per_second: u32) -> Self {
        Self::start(&[to], per_second, &[Way::Kept], |_| ("GET", "/".into()))
    }

    /// GETs and as many POSTs, each of which has a path of its own.
    pub fn gets_and_posts(to: SocketAddr, per_second: u32) -> Self {
        Self::start(
            &[to],
            per_second,
            &[Way::Kept],
            |n| if n % 2 == 0 { ("GET", "/".into()) } else { post() },
        )
    }

    /// GETs, GETs that take their dataserver 20 ms and POSTs, as many of each: over HTTP/1.1 on connections that are kept
    /// and on new ones, and over HTTP/2. Whoever is let in no more goes to the next of several gateways.
    pub fn of_every_kind(to: &[SocketAddr], per_second: u32) -> Self {
        Self::start(to, per_second, &[Way::Kept, Way::Http2, Way::Anew, Way::Http2], |n| match n % 3 {
            0 => ("GET", "/".into()),
            1 => ("GET", "/delay/20".into()),
            _ => post(),
        })
    }

    /// The users have these ways in turns.
    fn start(to: &[SocketAddr], per_second: u32, ways: &[Way], ask: fn(usize) -> Asked) -> Self {
        let load =
            Self { stop: Arc::default(), asked: Arc::default(), answers: Arc::default(), users: Vec::new() };
        let begun = Instant::now();
        let at_once = |user: usize| ways[user % ways.len()].at_once();
        let interval = (0..USERS).map(at_once).sum::<usize>() as f64 / f64::from(per_second);
        let users = (0..USERS).map(|user| {
            let interval = Duration::from_secs_f64(interval);
            let first = begun + interval.mul_f64(user as f64 / USERS as f64);
            let (stop, asked, answers) = (load.stop.clone(), load.asked.clone(), load.answers.clone());
            let mut user = User::new(ways[user % ways.len()], to);
            std::thread::spawn(move || {
                let mut due = first;
                while !stop.load(Ordering::Relaxed) {
                    pause(due.saturating_duration_since(Instant::now()));
                    let asks = user.way.at_once();
                    let first = asked.fetch_add(asks, Ordering::Relaxed);
                    let asked: Vec<_> = (first..first + asks).map(ask).collect();
                    let at = Instant::now();
                    let failures = user.ask(&asked);
                    let (took, way) = (at.elapsed(), user.way);
                    answers.lock().unwrap().extend(
                        asked.iter().zip(failures).map(|((method, _), failure)| Answer {
                            at,
                            took,
                            method,
                            way,
                            failure,
                        }),
                    );
                    // What was missed during a long answer is not made up for.
                    due = (due + interval).max(Instant::now());
                }
            })
        });
        let users = users.collect();
        Self { users, ..load }
    }

    /// How many were answered.
    pub fn answered(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    /// Waits until so many more were answered.
    #[track_caller]
    pub fn go_on_for(&self, answers: usize) {
        let before = self.answered();
        within(PATIENCE, "the answers", || (self.answered() >= before + answers).then_some(()));
    }

    /// What has become of those that were answered until now.
    pub fn so_far(&self) -> Answers {
        let mut answers = self.answers.lock().unwrap().clone();
        answers.sort_by_key(|answer| answer.at);
        Answers(answers)
    }

    /// Ends it, and waits for what is under way.
    pub fn stop(mut self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        for user in self.users.drain(..) {
            user.join().unwrap();
        }
        self.so_far()
    }
}

/// A POST with a path of its own.
fn post() -> Asked {
    static POSTED: AtomicUsize = AtomicUsize::new(0);
    ("POST", format!("/posted/{}", POSTED.fetch_add(1, Ordering::Relaxed)))
}

impl Answers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Answer> {
        self.0.iter()
    }

    /// Those that were sent in one of these spans of time.
    pub fn sent(&self, spans: &[Range<Instant>]) -> Self {
        let was_sent = |answer: &&Answer| spans.iter().any(|span| span.contains(&answer.at));
        Self(self.iter().filter(was_sent).cloned().collect())
    }

    /// Those that were waited for at some moment of a span of time, and the others.
    pub fn under_way(&self, span: &Range<Instant>) -> (Self, Self) {
        let was_under_way = |answer: &Answer| answer.at < span.end && answer.at + answer.took > span.start;
        let (waited, others) = self.iter().cloned().partition(was_under_way);
        (Self(waited), Self(others))
    }

    /// Those to requests of this method.
    pub fn to_method(&self, method: &str) -> Self {
        Self(self.iter().filter(|answer| answer.method == method).cloned().collect())
    }

    /// How they came, each way with its number; none may be missing.
    pub fn of_every_kind(&self) -> Finding {
        let by = |way| self.iter().filter(|answer| answer.way == way).count();
        let counts = [Way::Kept, Way::Anew, Way::Http2].map(by);
        let [kept, anew, http2] = counts.map(grouped);
        let text = format!("{kept} on kept connections, {anew} on new ones, {http2} over HTTP/2");
        finding(text, !counts.contains(&0))
    }

    /// Those that failed.
    pub fn failed(&self) -> Self {
        Self(self.iter().filter(|answer| answer.failure.is_some()).cloned().collect())
    }

    /// That none failed. Says what the failures were, if there were any.
    pub fn none_failed(&self) -> Finding {
        let posts = self.to_method("POST").len();
        let what = match (posts, self.len()) {
            (0, gets) => format!("{} GETs", grouped(gets)),
            (posts, all) => format!("{} GETs and {} POSTs", grouped(all - posts), grouped(posts)),
        };
        let failed = self.failed();
        finding(format!("{}/{what} failed{}", failed.len(), failed.kinds()), failed.0.is_empty())
    }

    /// How they failed, each kind with its number, and the first of them in full on stderr.
    fn kinds(&self) -> String {
        let Some(first) = self.0.first() else {
            return String::new();
        };
        let mut kinds = BTreeMap::<_, usize>::new();
        for answer in &self.0 {
            let failure = answer.failure.as_deref().unwrap_or_default();
            *kinds.entry(failure.split(": {").next().unwrap_or(failure)).or_default() += 1;
            let after = answer.at - first.at;
            eprintln!("{after:.3?} after the first failure, {:.3?}: {failure}", answer.took);
        }
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
        format!(" ({})", kinds.join(", "))
    }

    /// The longest that one took.
    pub fn longest(&self) -> Duration {
        self.iter().map(|answer| answer.took).max().unwrap_or_default()
    }

    /// What 99 of 100 took at most.
    pub fn p99(&self) -> Duration {
        let mut times: Vec<_> = self.iter().map(|answer| answer.took).collect();
        times.sort_unstable();
        times.get(times.len() * 99 / 100).copied().unwrap_or_default()
    }
}
