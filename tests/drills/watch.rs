//! What the gateway says of itself while a drill goes on, every 50 ms: who is in rotation, whether the set is frozen, to
//! whom it has sent.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Apiserver, pause, read_reply, request};

const EVERY: Duration = Duration::from_millis(50);

/// Looks until it is told to stop.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

/// What was seen at one moment.
struct Sample {
    at: Instant,
    /// Who is listed as one that gets requests.
    rotation: Vec<String>,
    frozen: bool,
    /// How many nsqds heartbeats are read from.
    nsqds: usize,
    /// How many requests each dataserver was sent: those it has answered and those it has failed.
    sent: BTreeMap<String, u64>,
}

/// All that was seen.
pub struct Seen(Vec<Sample>);

impl Watch {
    pub fn start(gateway: &Apiserver) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, admin) = (stop.clone(), gateway.admin.unwrap_or(gateway.listen));
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let next = Instant::now() + EVERY;
                samples.extend(look(admin));
                pause(next.saturating_duration_since(Instant::now()));
            }
            samples
        });
        Self { stop, thread }
    }

    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        Seen(self.thread.join().unwrap())
    }
}

/// What is seen now; nothing if the gateway does not answer.
fn look(admin: SocketAddr) -> Option<Sample> {
    let list: Value = serde_json::from_str(&ask(admin, "/dataservers")?).ok()?;
    let metrics = ask(admin, "/metrics")?;
    let entries = list["dataservers"].as_array()?.iter().filter(|entry| entry["state"] == "live");
    let mut sent = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("gateway_upstream_")) {
        let Some((_, rest)) = line.split_once("dataserver=\"") else { continue };
        let Some(count) = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()) else {
            continue;
        };
        *sent.entry(rest.split('"').next()?.to_owned()).or_default() += count;
    }
    Some(Sample {
        at: Instant::now(),
        rotation: entries.filter_map(|entry| entry["addr"].as_str().map(str::to_owned)).collect(),
        frozen: list["frozen"] == true,
        nsqds: metrics
            .lines()
            .filter(|line| line.starts_with("gateway_nsqd_connected{") && line.ends_with(" 1"))
            .count(),
        sent,
    })
}

fn ask(admin: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    stream.write_all(&request(&format!("GET {path}"), &[("connection", "close")], b"")).ok()?;
    let reply = read_reply(&mut BufReader::new(stream), false).filter(|reply| reply.complete)?;
    Some(reply.text())
}

impl Seen {
    fn since(&self, since: Instant) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| sample.at >= since)
    }

    /// How long after a moment something was true for the first time.
    fn first(&self, since: Instant, is_so: impl Fn(&Sample) -> bool) -> Option<Duration> {
        self.since(since).find(|sample| is_so(sample)).map(|sample| sample.at - since)
    }

    /// How long after a moment a dataserver was out of rotation.
    pub fn out_after(&self, addr: &str, since: Instant) -> Option<Duration> {
        self.first(since, |sample| !sample.rotation.iter().any(|live| live == addr))
    }

    /// How long after a moment a dataserver was in rotation.
    pub fn in_after(&self, addr: &str, since: Instant) -> Option<Duration> {
        self.first(since, |sample| sample.rotation.iter().any(|live| live == addr))
    }

    /// How long after a moment the set was frozen.
    pub fn frozen_after(&self, since: Instant) -> Option<Duration> {
        self.first(since, |sample| sample.frozen)
    }

    /// How long after a moment the set was no longer frozen.
    pub fn thawed_after(&self, since: Instant) -> Option<Duration> {
        self.first(since, |sample| !sample.frozen)
    }

    /// How long after a moment heartbeats were read from so many nsqds.
    pub fn nsqds_after(&self, since: Instant, nsqds: usize) -> Option<Duration> {
        self.first(since, |sample| sample.nsqds == nsqds)
    }

    /// How long after a moment heartbeats were read from another number of nsqds.
    pub fn nsqds_other_than(&self, since: Instant, nsqds: usize) -> Option<Duration> {
        self.first(since, |sample| sample.nsqds != nsqds)
    }

    /// How long after a moment a request was last sent to a dataserver; zero if none was.
    pub fn last_sent_after(&self, addr: &str, since: Instant) -> Duration {
        self.last_sent_between(addr, since, Instant::now())
    }

    /// As [`last_sent_after`](Self::last_sent_after), up to another moment.
    pub fn last_sent_between(&self, addr: &str, since: Instant, to: Instant) -> Duration {
        let sent = |sample: &Sample| sample.sent.get(addr).copied().unwrap_or_default();
        let pairs = self.0.windows(2).filter(|pair| (since..to).contains(&pair[1].at));
        let mut risen = pairs.filter(|pair| sent(&pair[1]) > sent(&pair[0]));
        risen.next_back().map(|pair| pair[1].at.saturating_duration_since(since)).unwrap_or_default()
    }

    /// Of these dataservers, those that were out of rotation at some moment in a span of time.
    pub fn missing(&self, of: &[String], from: Instant, to: Instant) -> Vec<String> {
        let was_out = |addr: &&String| {
            let mut samples = self.0.iter().filter(|sample| (from..to).contains(&sample.at));
            samples.any(|sample| !sample.rotation.contains(addr))
        };
        of.iter().filter(was_out).cloned().collect()
    }
}
