//! `/readyz`: may this gateway be sent traffic, and what would tell why not?

use std::collections::BTreeMap;

use axum::extract;
use axum::response::{IntoResponse, Json};
use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use super::api::{Shared, Shown, no_store};
use crate::config::Fault;
use crate::metrics::{self, NsqdStatus};
use crate::registry::{Frozen, State};

/// The body of `GET /readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reason: Option<&'static str>,
    /// Those that get requests.
    dataservers: usize,
    nsqds: Nsqds,
    #[serde(flatten)]
    more: Option<More>,
}

#[derive(Serialize)]
struct Nsqds {
    connected: usize,
    known: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    links: Option<Vec<Link>>,
}

/// What is known of one nsqd.
#[derive(Serialize)]
struct Link {
    nsqd: String,
    connected: bool,
    clock_offset_seconds: Option<f64>,
    channel_shared: bool,
}

/// What `?verbose` adds.
#[derive(Serialize)]
struct More {
    states: BTreeMap<&'static str, usize>,
    frozen: bool,
    frozen_reason: Option<&'static str>,
    paused_seconds: f64,
    /// Nothing if none is kept.
    snapshot: Option<Snapshot>,
    /// How it went when the config was read again the last time; nothing if it was not yet.
    config_reload: Option<Reload>,
}

/// The config, read again.
#[derive(Serialize)]
struct Reload {
    at: String,
    result: &'static str,
    /// Why it was not taken.
    faults: Vec<ConfigFault>,
    /// Keys whose value in the file holds only after a restart.
    waiting_for_restart: Vec<String>,
}

#[derive(Serialize)]
struct ConfigFault {
    key: String,
    line: Option<usize>,
    message: String,
}

/// The live set on disk.
#[derive(Serialize)]
struct Snapshot {
    written_at: Option<String>,
    failing: bool,
}

/// It has somewhere to send a request, and is not about to stop.
pub(super) async fn readyz(
    extract::State(state): Shared,
    extract::RawQuery(query): extract::RawQuery,
) -> impl IntoResponse {
    let now = Instant::now();
    let (dataservers, reason) = readiness(&state, now);
    let is_verbose = query.as_deref().is_some_and(asks_for_more);
    let (connected, known) = state.metrics.nsqds_connected();
    let readiness = Readiness {
        ready: reason.is_none(),
        reason,
        dataservers,
        nsqds: Nsqds { connected, known, links: is_verbose.then(|| links(&state)) },
        more: is_verbose.then(|| More::new(&state, now)),
    };
    let status = if reason.is_some() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, no_store(), Json(readiness))
}

fn asks_for_more(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some("verbose"))
}

/// How many dataservers get requests, and why the gateway may not be sent any.
pub(super) fn readiness(state: &Shown, now: Instant) -> (usize, Option<&'static str>) {
    let dataservers = state.registry.picked_from(now);
    (dataservers, reason(state, dataservers, now))
}

fn reason(state: &Shown, dataservers: usize, now: Instant) -> Option<&'static str> {
    if state.is_draining() {
        return Some("draining");
    }
    if dataservers > 0 {
        return None;
    }
    if state.metrics.is_any_heartbeat_taken() {
        return Some("no live dataserver");
    }
    // Until every dataserver has had the time to be heard once.
    Some(match state.metrics.first_connected() {
        None => "starting: no nsqd connected yet",
        Some(since) if now < since + state.config.now().common.heart_beat_time => {
            "starting: no heartbeat yet"
        }
        Some(_) => "no live dataserver",
    })
}

fn links(state: &Shown) -> Vec<Link> {
    let link = |NsqdStatus { nsqd, connected, clock_offset, channel_shared, .. }| Link {
        nsqd,
        connected,
        clock_offset_seconds: clock_offset,
        channel_shared,
    };
    state.metrics.nsqds().into_iter().map(link).collect()
}

impl More {
    fn new(state: &Shown, now: Instant) -> Self {
        let frozen = state.registry.frozen();
        let keeps_snapshot = state.config.now().registry.snapshot.is_some();
        Self {
            states: State::ALL.map(State::label).into_iter().zip(state.registry.states(now)).collect(),
            frozen: frozen.is_some(),
            frozen_reason: frozen.map(Frozen::label),
            paused_seconds: state.metrics.paused_for().as_secs_f64(),
            snapshot: keeps_snapshot.then(|| Snapshot::new(state.metrics.snapshot())),
            config_reload: state.reload.load().as_deref().map(Reload::new),
        }
    }
}

impl Reload {
    fn new(super::Reload { at, result, faults, waiting }: &super::Reload) -> Self {
        let fault = |fault: &Fault| {
            let Fault { path, line, message } = fault.clone();
            ConfigFault { key: path, line, message }
        };
        Self {
            at: humantime::format_rfc3339_millis(*at).to_string(),
            result,
            faults: faults.iter().map(fault).collect(),
            waiting_for_restart: waiting.iter().map(|change| change.key.clone()).collect(),
        }
    }
}

impl Snapshot {
    fn new(seen: metrics::Snapshot) -> Self {
        let rfc_3339 = |at| humantime::format_rfc3339_millis(at).to_string();
        Self { written_at: seen.written_at.map(rfc_3339), failing: seen.failing }
    }
}
