//! The admin paths.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::body::Body;
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use axum::{Router, extract};
use http::{HeaderValue, Response, StatusCode, header};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use super::{Reload, dataservers, readyz};
use crate::config::Running;
use crate::metrics::{Metrics, Scrape};
use crate::problem::problem;
use crate::registry::{Failure, Registry, State};

#[derive(Clone)]
pub(super) struct Shown {
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) stream: Stream,
    pub(super) draining: CancellationToken,
    pub(super) config: Running,
    /// The last one.
    pub(super) reload: Arc<ArcSwapOption<Reload>>,
    /// Held by whoever looks at each of the set: of a large one it takes long, and many at once would leave no thread of the
    /// control side to those that take in heartbeats.
    pub(super) whole_set: Arc<Mutex<()>>,
}

impl Shown {
    pub(super) fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

pub(super) type Shared = extract::State<Shown>;

pub(super) fn router(state: Shown) -> Router {
    Router::new()
        .route("/dataservers", get(dataservers::all))
        .route("/dataservers/{addr}", get(dataservers::one))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz::readyz))
        .fallback(not_found)
        .with_state(state)
}

async fn metrics(extract::State(state): Shared) -> impl IntoResponse {
    let Shown { registry, metrics, whole_set, .. } = &state;
    let _turn = whole_set.lock().await;
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

async fn not_found() -> Response<Body> {
    problem(StatusCode::NOT_FOUND, "Not found", "there is no such admin path").map(Body::from)
}

pub(super) fn no_store() -> [(http::HeaderName, HeaderValue); 1] {
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))]
}
