//! Users: requests at a steady rate over connections that are kept, and what became of each.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::findings::{Finding, finding, grouped};
use crate::support::{pause, read_reply, request, within};

/// How many users there are. Each asks again only when it was answered.
const USERS: usize = 16;

/// Longer than anything that is waited for: an answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(120);

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
    /// What a user would complain about, if anything.
    pub failure: Option<String>,
}

/// All answers of a load, in the order in which they were sent.
#[derive(Clone)]
pub struct Answers(Vec<Answer>);

impl Load {
    /// GETs at this rate. Every second one takes its dataserver 20 ms, so that there are always some under way.
    pub fn gets(to: SocketAddr, per_second: u32) -> Self {
        Self::start(to, per_second, |n| ("GET", if n % 2 == 0 { "/".into() } else { "/delay/20".into() }))
    }

    /// GETs at this rate that take no time.
    pub fn quick_gets(to: SocketAddr, per_second: u32) -> Self {
        Self::start(to, per_second, |_| ("GET", "/".into()))
    }

    /// GETs and as many POSTs, each of which has a path of its own.
    pub fn gets_and_posts(to: SocketAddr, per_second: u32) -> Self {
        static POSTED: AtomicUsize = AtomicUsize::new(0);
        Self::start(to, per_second, |n| match n % 2 {
            0 => ("GET", "/".into()),
            _ => ("POST", format!("/posted/{}", POSTED.fetch_add(1, Ordering::Relaxed))),
        })
    }

    fn start(to: SocketAddr, per_second: u32, ask: fn(usize) -> (&'static str, String)) -> Self {
        let load =
            Self { stop: Arc::default(), asked: Arc::default(), answers: Arc::default(), users: Vec::new() };
        let interval = Duration::from_secs(USERS as u64) / per_second;
        let begun = Instant::now();
        let users = (0..USERS).map(|user| {
            let first = begun + interval.mul_f64(user as f64 / USERS as f64);
            let (stop, asked, answers) = (load.stop.clone(), load.asked.clone(), load.answers.clone());
            std::thread::spawn(move || {
                let mut user = User { to, connection: None };
                let mut due = first;
                while !stop.load(Ordering::Relaxed) {
                    pause(due.saturating_duration_since(Instant::now()));
                    let (method, path) = ask(asked.fetch_add(1, Ordering::Relaxed));
                    let answer = user.ask(method, &path);
                    answers.lock().unwrap().push(answer);
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

struct User {
    to: SocketAddr,
    connection: Option<(TcpStream, BufReader<TcpStream>)>,
}

impl User {
    fn ask(&mut self, method: &'static str, path: &str) -> Answer {
        let at = Instant::now();
        let body: &[u8] = if method == "POST" { b"once" } else { b"" };
        let failure = self.exchange(&request(&format!("{method} {path}"), &[], body)).err();
        if failure.is_some() {
            self.connection = None;
        }
        Answer { at, took: at.elapsed(), method, failure }
    }

    fn exchange(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (stream, reader) = match &mut self.connection {
            Some(open) => open,
            None => self.connection.insert(open(self.to).map_err(|error| format!("connect: {error}"))?),
        };
        stream.write_all(bytes).map_err(|error| format!("send: {error}"))?;
        let reply = read_reply(reader, false).ok_or("no answer")?;
        if reply.status != 200 || !reply.complete {
            let whole = if reply.complete { "" } else { ", cut short" };
            return Err(format!("{}{whole}: {}", reply.status, reply.text()));
        }
        if reply.header("connection") == Some("close") {
            self.connection = None;
        }
        Ok(())
    }
}

fn open(to: SocketAddr) -> std::io::Result<(TcpStream, BufReader<TcpStream>)> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok((stream.try_clone()?, BufReader::new(stream)))
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
