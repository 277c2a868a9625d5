//! The page's stream: everything once, and then each second what has changed.
//!
//! What changed is found and written once for all who watch, and while nobody watches nobody in the set is looked at. A
//! viewer takes messages when its connection has room: one that is slow is left out, and told everything again when it
//! has caught up. So nothing is held for it but two messages, which all share.

mod form;
mod graph;
mod rows;

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::api::Shown;
use super::{page, readyz};
use crate::config::Config;
use crate::http1::Unwaited;
use crate::metrics::NsqdStatus;
use crate::problem::problem;
use form::{Clock, Delta, Event, Load, Nsqd, Set, State, message};
use graph::Graph;
use rows::Rows;

/// How often is told what changed.
const INTERVAL: Duration = Duration::from_secs(1);

/// Messages that wait for a viewer.
const WAITING: usize = 2;

/// Events that a message has at most, the last ones.
const EVENTS: usize = 100;

/// How soon a page that lost its stream tries again; a field of the stream (HTML, "Server-sent events").
const RETRY: &str = "retry: 2000\n\n";

/// A cheap handle to what is told to those who watch.
#[derive(Clone)]
pub(super) struct Stream {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    epoch: Instant,
    viewers: Vec<Viewer>,
    graph: Graph,
    /// As they were told. Empty while nobody watches.
    rows: Rows,
    set: Option<Set>,
    nsqds: Vec<Nsqd>,
    /// The number of the first event that was not told.
    next_event: u64,
    /// The message for whoever comes before the next.
    state: Option<Bytes>,
    /// The config by which those who watch were let in.
    let_in_by: Option<Arc<Config>>,
}

struct Viewer {
    messages: mpsc::Sender<Bytes>,
    /// It was too slow for one, and what it knows is not right any more.
    missed: bool,
}

impl Default for Stream {
    fn default() -> Self {
        let inner = Inner {
            epoch: Instant::now(),
            viewers: Vec::new(),
            graph: Graph::default(),
            rows: Rows::default(),
            set: None,
            nsqds: Vec::new(),
            next_event: 0,
            state: None,
            let_in_by: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }
}

impl Stream {
    /// Tells what changes, for as long as it is polled.
    pub(super) async fn run(&self, shown: &Shown) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.lock().tick(shown, Instant::now());
        }
    }

    /// An answer that tells one more viewer; 503 if there are too many.
    pub(super) fn watch(&self, shown: &Shown) -> Response<Body> {
        let Some(messages) = self.lock().admit(shown, Instant::now()) else {
            let detail = "as many watch as limits.viewers allows";
            let mut refused = problem(StatusCode::SERVICE_UNAVAILABLE, "Too many viewers", detail);
            refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
            return refused.map(Body::from);
        };
        let mut response = Response::new(Body::new(Messages(messages)));
        response.extensions_mut().insert(Unwaited);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
        // nginx would wait for a buffer to fill.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// Tells the viewers that the gateway drains, and no more: their connections are not to be waited for.
    pub(super) fn end(&self, shown: &Shown) {
        let mut inner = self.lock();
        inner.tick(shown, Instant::now());
        inner.viewers.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn admit(&mut self, shown: &Shown, now: Instant) -> Option<mpsc::Receiver<Bytes>> {
        self.see_who_is_let_in(shown);
        self.viewers.retain(|viewer| !viewer.messages.is_closed());
        if self.viewers.len() >= shown.config.now().limits.viewers {
            return None;
        }
        if self.viewers.is_empty() {
            self.look(shown, now);
        }
        let (messages, receiver) = mpsc::channel(WAITING);
        let _ = messages.try_send(self.state(shown)); // there is room
        // Who comes while the gateway drains sees how it stands, and is not told more.
        if !shown.is_draining() {
            self.viewers.push(Viewer { messages, missed: false });
        }
        Some(receiver)
    }

    /// When others may read the admin paths, whoever watches is sent away: whom that still lets in comes again.
    fn see_who_is_let_in(&mut self, shown: &Shown) {
        let config = shown.config.now();
        let who =
            |config: &Config| (config.gateway.admin_allow.clone(), config.gateway.trusted_proxies.clone());
        if self.let_in_by.as_ref().is_some_and(|by| !Arc::ptr_eq(by, &config) && who(by) != who(&config)) {
            self.viewers.clear();
        }
        self.let_in_by = Some(config);
    }

    fn tick(&mut self, shown: &Shown, now: Instant) {
        self.see_who_is_let_in(shown);
        self.graph.sample(now, &shown.metrics.observed(), shown.registry.live_in_snapshot());
        self.viewers.retain(|viewer| !viewer.messages.is_closed());
        if self.viewers.is_empty() {
            (self.rows, self.state) = (Rows::default(), None);
            return;
        }
        let told = (self.set.take(), std::mem::take(&mut self.nsqds));
        let events = self.look(shown, now);
        let delta = Delta {
            clock: self.clock(now),
            set: self.set.as_ref().filter(|set| told.0.as_ref() != Some(set)),
            nsqds: Some(self.nsqds.as_slice()).filter(|nsqds| told.1 != *nsqds),
            load: load(shown),
            sample: self.graph.last(),
            new: self.rows.arrived(),
            changed: self.rows.changed(),
            gone: &self.rows.gone,
            events,
        };
        let delta = message("delta", &delta);
        let state = self.viewers.iter().any(Viewer::has_caught_up).then(|| self.state(shown));
        for viewer in &mut self.viewers {
            let message = match &state {
                Some(state) if viewer.has_caught_up() => state,
                _ if viewer.missed => continue,
                _ => &delta,
            };
            viewer.missed = viewer.messages.try_send(message.clone()).is_err();
        }
    }

    /// Looks at all there is to tell. Returns what happened since the last time.
    fn look(&mut self, shown: &Shown, now: Instant) -> Vec<Event> {
        let clock = self.clock(now);
        self.state = None;
        self.rows.look(&shown.registry, clock, now);
        self.nsqds = shown.metrics.nsqds().into_iter().map(|nsqd| as_told(nsqd, clock)).collect();
        self.set = Some(set(shown, self.rows.left_out, clock, now));
        let happened = shown.registry.happened_since(self.next_event);
        self.next_event = happened.last().map_or(self.next_event, |last| last.number + 1);
        last_of(&happened, clock)
    }

    /// The message that tells everything, as it was at the last look.
    fn state(&mut self, shown: &Shown) -> Bytes {
        if let Some(state) = &self.state {
            return state.clone();
        }
        let Some(set) = &self.set else { return Bytes::new() };
        let clock = self.clock(self.rows.looked_at().unwrap_or(self.epoch));
        let state = State {
            clock,
            page: page::version(),
            set,
            nsqds: &self.nsqds,
            load: load(shown),
            graph: self.graph.samples(),
            rows: self.rows.all(),
            events: last_of(&shown.registry.happened_since(0), clock),
        };
        let state: Bytes = [RETRY.as_bytes(), &message("state", &state)].concat().into();
        self.state = Some(state.clone());
        state
    }

    fn clock(&self, now: Instant) -> Clock {
        Clock::read(self.epoch, now)
    }
}

impl Viewer {
    fn has_caught_up(&self) -> bool {
        self.missed && self.messages.capacity() == self.messages.max_capacity()
    }
}

fn last_of(happened: &[crate::registry::Happened], clock: Clock) -> Vec<Event> {
    let skip = happened.len().saturating_sub(EVENTS);
    happened.iter().skip(skip).map(|happened| Event::new(happened, clock)).collect()
}

fn set(shown: &Shown, left_out: usize, clock: Clock, now: Instant) -> Set {
    let (hold, since) = shown.registry.held();
    Set {
        name: shown.config.now().name.clone(),
        version: env!("CARGO_PKG_VERSION"),
        ttl: i64::try_from(shown.registry.ttl().as_millis()).unwrap_or(i64::MAX),
        hold: (hold.label(), hold.to_string(), since.map(|since| clock.millis(since))),
        not_ready: readyz::readiness(shown, now).1,
        left_out,
    }
}

fn load(shown: &Shown) -> Load {
    let observed = shown.metrics.observed();
    Load { in_flight: observed.in_flight, connections: observed.connections }
}

fn as_told(status: NsqdStatus, clock: Clock) -> Nsqd {
    let NsqdStatus { nsqd: addr, connected, since, clock_offset, channel_shared: shared } = status;
    let offset = clock_offset.map(|seconds| (seconds * 1e3).round());
    Nsqd { addr, connected, since: clock.millis(since), offset, shared }
}

/// The body of a stream: the messages for one viewer.
struct Messages(mpsc::Receiver<Bytes>);

impl http_body::Body for Messages {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|message| message.map(|message| Ok(Frame::data(message))))
    }
}

#[cfg(test)]
mod tests;
