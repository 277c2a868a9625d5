//! What an operator asks: who is live, what was counted, whether the gateway runs and may be sent traffic.

mod api;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use tower::ServiceExt;

use crate::config::Networks;
use crate::metrics::Metrics;
use crate::problem::problem;
use crate::registry::Registry;

/// A cheap handle to the admin paths.
#[derive(Clone)]
pub struct Admin {
    router: Router,
    allow: Arc<Networks>,
    state: api::State,
}

impl Admin {
    /// The admin paths of one gateway, for clients in `allow`.
    pub fn new(registry: Registry, metrics: Metrics, allow: Networks) -> Self {
        let state = api::State { registry, metrics, draining: Arc::new(AtomicBool::new(false)) };
        Self { router: api::router(state.clone()), allow: Arc::new(allow), state }
    }

    /// Whether a path is one of the admin paths, which are not forwarded.
    pub fn serves(path: &str) -> bool {
        matches!(path, "/dataservers" | "/metrics" | "/healthz" | "/readyz")
            || path.starts_with("/dataservers/")
    }

    /// From now on `/readyz` says no.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
    }

    /// Answers a request from this client.
    pub async fn answer(self, client: IpAddr, request: Request<Body>) -> Response<Body> {
        if !self.allow.contains(client) {
            let detail = "this client is in none of the networks of gateway.admin_allow";
            return problem(StatusCode::FORBIDDEN, "Forbidden", detail).map(Body::from);
        }
        match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
