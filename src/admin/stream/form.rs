//! What the page is told, as it stands in the messages. Times are milliseconds since the stream was made, so that the
//! wall clock may be set at any time; what is long is an array rather than an object.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use super::graph::Sample;
use super::rows::{Changed, New};

/// What a page is told when it comes, and when it was too slow for what changed.
#[derive(Serialize)]
pub(super) struct State<'a> {
    #[serde(flatten)]
    pub(super) clock: Clock,
    /// Which page this is for.
    pub(super) page: &'static str,
    pub(super) set: &'a Set,
    pub(super) nsqds: &'a [Nsqd],
    pub(super) load: Load,
    pub(super) graph: &'a VecDeque<Sample>,
    pub(super) rows: Vec<New<'a>>,
    pub(super) events: Vec<Event>,
}

/// What changed in a second.
#[derive(Serialize)]
pub(super) struct Delta<'a> {
    #[serde(flatten)]
    pub(super) clock: Clock,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) set: Option<&'a Set>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nsqds: Option<&'a [Nsqd]>,
    pub(super) load: Load,
    pub(super) sample: Option<Sample>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) new: Vec<New<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) changed: Vec<Changed>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) gone: &'a [u64],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) events: Vec<Event>,
}

/// When a message was made, and what the wall clock said.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Clock {
    #[serde(rename = "now")]
    millis: i64,
    wall: u128,
    #[serde(skip)]
    at: Instant,
    #[serde(skip)]
    epoch: Instant,
}

impl Clock {
    pub(super) fn read(epoch: Instant, at: Instant) -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        Self { millis: since(epoch, at), wall, at, epoch }
    }

    /// By the stream's clock.
    pub(super) fn millis(&self, at: Instant) -> i64 {
        since(self.epoch, at)
    }

    /// By the wall clock of now.
    fn wall(&self, at: Instant) -> u128 {
        self.wall.saturating_sub(self.at.saturating_duration_since(at).as_millis())
    }
}

/// The gateway, and the set as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) version: &'static str,
    pub(super) ttl: i64,
    /// What silence means, as a word and as a sentence, and since when.
    pub(super) hold: (&'static str, String, Option<i64>),
    /// Why it may not be sent traffic.
    pub(super) not_ready: Option<&'static str>,
    /// Dataservers for which there is no room on the page.
    pub(super) left_out: usize,
}

/// One nsqd.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Nsqd {
    pub(super) addr: String,
    pub(super) connected: bool,
    pub(super) since: i64,
    /// Milliseconds that its clock is ahead.
    pub(super) offset: Option<f64>,
    /// Others read the gateway's channel.
    pub(super) shared: bool,
}

/// What is under way.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Load {
    pub(super) in_flight: u64,
    pub(super) connections: u64,
}

/// An event: its number, when by the wall clock, whose, a word and a sentence.
#[derive(Serialize)]
pub(super) struct Event(u64, u128, Option<String>, &'static str, String);

impl Event {
    pub(super) fn new(happened: &crate::registry::Happened, clock: Clock) -> Self {
        let news = &happened.news;
        let addr = news.addr().map(ToString::to_string);
        Self(happened.number, clock.wall(happened.at), addr, news.kind(), news.to_string())
    }
}

/// A message of an event stream; it has no line break in it, as JSON has none.
pub(super) fn message(event: &str, data: &impl Serialize) -> Bytes {
    let mut text = format!("event: {event}\ndata: ").into_bytes();
    if let Err(error) = serde_json::to_writer(&mut text, data) {
        tracing::error!(%error, "the page cannot be told");
        return Bytes::new();
    }
    text.extend_from_slice(b"\n\n");
    text.into()
}

fn since(epoch: Instant, at: Instant) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match at.checked_duration_since(epoch) {
        Some(after) => whole(after),
        None => -whole(epoch.saturating_duration_since(at)),
    }
}

/// Milliseconds, to the microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Three digits: more say nothing, and what does not change need not be sent.
pub(super) fn rate(per_second: f64) -> f64 {
    match per_second {
        ..0.05 => 0.0,
        ..100.0 => (per_second * 10.0).round() / 10.0,
        _ => per_second.round(),
    }
}
