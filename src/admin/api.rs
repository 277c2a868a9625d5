//! The admin paths.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use axum::{Router, extract};
use http::{HeaderValue, Response, StatusCode, header};
use tokio::time::Instant;

use super::dataservers;
use crate::metrics::{Metrics, Scrape};
use crate::problem::problem;
use crate::registry::{Failure, Registry, State};

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) draining: Arc<AtomicBool>,
}

pub(super) type Shared = extract::State<Shown>;

pub(super) fn router(state: Shown) -> Router {
    Router::new()
        .route("/dataservers", get(dataservers::all))
        .route("/dataservers/{addr}", get(dataservers::one))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .with_state(state)
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

pub(super) fn no_store() -> [(http::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}
