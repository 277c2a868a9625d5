//! The admin paths.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::Path;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use axum::{Router, extract};
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use tokio::time::Instant;

use crate::addr::Addr;
use crate::metrics::{Metrics, Scrape};
use crate::problem::problem;
use crate::registry::{self, Failure, Frozen, Registry, State};

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) draining: Arc<AtomicBool>,
}

type Shared = extract::State<Shown>;

pub(super) fn router(state: Shown) -> Router {
    Router::new()
        .route("/dataservers", get(dataservers))
        .route("/dataservers/{addr}", get(dataserver))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .with_state(state)
}

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

impl Dataserver {
    fn new(entry: &registry::Dataserver, now: Instant, wall: SystemTime) -> Self {
        // Entries know only the monotonic clock; people get that moment by the wall clock of now.
        let rfc_3339 = |at: Instant| {
            let time = wall.checked_sub(now.saturating_duration_since(at)).unwrap_or(SystemTime::UNIX_EPOCH);
            humantime::format_rfc3339_millis(time).to_string()
        };
        let age = now.saturating_duration_since(entry.last_heard);
        Self {
            addr: entry.addr.to_string(),
            protocol: entry.protocol.as_str(),
            state: entry.state.label(),
            first_seen: rfc_3339(entry.joined),
            last_heartbeat: rfc_3339(entry.last_heard),
            age_seconds: seconds(age),
            heartbeats: entry.heartbeats,
            in_flight: entry.totals.in_flight,
            requests: entry.totals.requests(),
            failures: entry.totals.failures(),
        }
    }
}

/// To the millisecond: more digits say nothing.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e3).round() / 1e3
}

async fn dataservers(extract::State(state): Shared) -> impl IntoResponse {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let (list, frozen) = (state.registry.list(now), state.registry.frozen());
    let dataservers = list.iter().map(|entry| Dataserver::new(entry, now, wall)).collect();
    (
        no_store(),
        Json(Dataservers { frozen: frozen.is_some(), frozen_reason: frozen.map(Frozen::label), dataservers }),
    )
}

async fn dataserver(extract::State(state): Shared, Path(addr): Path<String>) -> Response<Body> {
    let now = Instant::now();
    let entry = addr.parse::<Addr>().ok().and_then(|addr| state.registry.get(&addr, now));
    match entry {
        Some(entry) => (no_store(), Json(Dataserver::new(&entry, now, SystemTime::now()))).into_response(),
        None => problem(StatusCode::NOT_FOUND, "Unknown dataserver", "no dataserver is live at this address")
            .map(Body::from),
    }
}

async fn metrics(extract::State(state): Shared) -> impl IntoResponse {
    let Shown { registry, metrics, .. } = &state;
    registry.each_traffic(|addr, totals| {
        let errors = Failure::ALL.iter().map(|kind| kind.label()).zip(totals.failures);
        metrics.upstream(addr.as_str(), &totals.answers, errors);
    });
    let states = registry.states(Instant::now());
    let dataservers: Vec<_> = State::ALL.map(State::label).into_iter().zip(states).collect();
    let text = metrics.render(&Scrape { dataservers: &dataservers, frozen: registry.frozen().is_some() });
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], text)
}

/// The process runs: that it answers is the answer.
async fn healthz() -> impl IntoResponse {
    (no_store(), Json(serde_json::json!({ "status": "ok" })))
}

/// It may be sent traffic: it has somewhere to send it, and is not about to stop.
async fn readyz(extract::State(state): Shared) -> impl IntoResponse {
    let draining = state.draining.load(Ordering::Relaxed);
    let live = state.registry.live(Instant::now());
    let (connected, known) = state.metrics.nsqds_connected();
    let reason = match (draining, live) {
        (true, _) => Some("draining"),
        (false, 0) => Some("no live dataserver"),
        (false, _) => None,
    };
    let status = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({
        "ready": reason.is_none(),
        "reason": reason,
        "dataservers": live,
        "nsqds": { "connected": connected, "known": known },
    });
    (status, no_store(), Json(body))
}

async fn not_found() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "Not found", "there is no such admin path").map(Body::from)
}

fn no_store() -> [(http::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}
