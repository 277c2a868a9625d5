//! `/dataservers`: who is in the set, and why one is or is not.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Json};
use axum::{extract, http::Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;

use super::accept::Form;
use super::api::{Shared, Shown, no_store};
use super::page;
use crate::addr::Addr;
use crate::problem::{problem, problem_with};
use crate::registry::{self, Frozen, What};

/// The body of `GET /dataservers`.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "they are the names in the JSON")]
struct Dataservers {
    frozen: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_reason: Option<&'static str>,
    dataservers: Vec<Dataserver>,
}

/// One dataserver in an answer.
#[derive(Serialize)]
struct Dataserver {
    addr: String,
    protocol: &'static str,
    state: &'static str,
    first_seen: String,
    last_heartbeat: String,
    age_seconds: f64,
    heartbeats: u64,
    in_flight: u64,
    requests: u64,
    failures: u64,
}

/// The body of `GET /dataservers/{addr}`.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    dataserver: Dataserver,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<String>,
    events: Vec<Event>,
}

/// Something that happened to a dataserver.
#[derive(Serialize)]
struct Event {
    at: String,
    kind: &'static str,
    what: String,
}

/// The registry knows only the monotonic clock; people get a moment by the wall clock of now.
#[derive(Clone, Copy)]
struct Clocks {
    now: Instant,
    wall: SystemTime,
}

impl Clocks {
    fn read() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    fn rfc_3339(self, at: Instant) -> String {
        let age = self.now.saturating_duration_since(at);
        let time = self.wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        humantime::format_rfc3339_millis(time).to_string()
    }
}

impl Dataserver {
    fn new(entry: &registry::Dataserver, clocks: Clocks) -> Self {
        Self {
            addr: entry.addr.to_string(),
            protocol: entry.protocol.as_str(),
            state: entry.state.label(),
            first_seen: clocks.rfc_3339(entry.joined),
            last_heartbeat: clocks.rfc_3339(entry.last_heard),
            age_seconds: seconds(clocks.now.saturating_duration_since(entry.last_heard)),
            heartbeats: entry.heartbeats,
            in_flight: entry.totals.in_flight,
            requests: entry.totals.requests(),
            failures: entry.totals.failures(),
        }
    }
}

impl Event {
    fn new(event: &registry::Event, clocks: Clocks) -> Self {
        Self { at: clocks.rfc_3339(event.at), kind: event.what.kind(), what: event.what.to_string() }
    }
}

/// To the millisecond: more digits say nothing.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

/// One path, in the form that is asked for.
pub(super) async fn all(extract::State(state): Shared, headers: HeaderMap) -> Response<Body> {
    let mut answer = match Form::of(&headers) {
        Form::Json => {
            let _turn = state.whole_set.lock().await;
            json(&state)
        }
        Form::Page => page::page(),
        Form::Stream => state.stream.watch(&state),
    };
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    answer
}

fn json(state: &Shown) -> Response<Body> {
    let clocks = Clocks::read();
    let (list, frozen) = (state.registry.list(clocks.now), state.registry.frozen());
    let dataservers = list.iter().map(|entry| Dataserver::new(entry, clocks)).collect();
    (
        no_store(),
        Json(Dataservers { frozen: frozen.is_some(), frozen_reason: frozen.map(Frozen::label), dataservers }),
    )
        .into_response()
}

pub(super) async fn one(extract::State(state): Shared, Path(addr): Path<String>) -> Response<Body> {
    let clocks = Clocks::read();
    let Ok(addr) = addr.parse::<Addr>() else { return unknown() };
    let (entry, events) = (state.registry.get(&addr, clocks.now), state.registry.events(&addr));
    match (entry, events) {
        (Some(entry), events) => {
            let told = Told {
                dataserver: Dataserver::new(&entry, clocks),
                process: entry.process.as_ref().map(ToString::to_string),
                events: events.iter().flatten().map(|event| Event::new(event, clocks)).collect(),
            };
            (no_store(), Json(told)).into_response()
        }
        (None, Some(events)) => gone(&events, clocks),
        (None, None) => unknown(),
    }
}

fn unknown() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "Unknown dataserver", "no dataserver is in the set at this address")
        .map(Body::from)
}

/// It is not in the set any more, and it is still known why.
fn gone(events: &[registry::Event], clocks: Clocks) -> Response<Body> {
    // Another one is last while it is silent for too long and not yet evicted.
    let left = events.last().filter(|event| matches!(event.what, What::Left { .. }));
    let left_at = left.map(|event| clocks.rfc_3339(event.at));
    let events: Vec<_> = events.iter().map(|event| Event::new(event, clocks)).collect();
    let mut members = serde_json::Map::new();
    members.extend(left_at.map(|at| ("left_at".to_owned(), at.into())));
    members.insert("events".to_owned(), serde_json::json!(events));
    let detail = "the dataserver at this address has left the set; the last of the events says why";
    problem_with(StatusCode::NOT_FOUND, "Unknown dataserver", detail, members).map(Body::from)
}
