//! What an operator asks: who is live, what was counted, whether the gateway runs and may be sent traffic.

mod accept;
mod api;
mod client;
mod dataservers;
mod page;
mod readyz;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use http::{Request, Response, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use stream::Stream;

use crate::config::{Change, Fault, Gateway, Running};
use crate::metrics::Metrics;
use crate::problem::problem;
use crate::registry::Registry;

/// A cheap handle to the admin paths.
#[derive(Clone)]
pub struct Admin {
    router: Router,
    state: api::Shown,
}

/// How it went when the config was read again.
#[derive(Debug, Clone)]
pub struct Reload {
    /// When.
    pub at: SystemTime,
    /// As in `gateway_config_reloads_total{result}`.
    pub result: &'static str,
    /// Why it was not taken, if it was not.
    pub faults: Vec<Fault>,
    /// What the file says and what holds only after a restart.
    pub waiting: Vec<Change>,
}

impl Admin {
    /// The admin paths of one gateway, for clients in `gateway.admin_allow`.
    pub fn new(registry: Registry, metrics: Metrics, config: Running) -> Self {
        let state = api::Shown {
            registry,
            metrics,
            stream: Stream::default(),
            draining: CancellationToken::new(),
            config,
            reload: Arc::default(),
            whole_set: Arc::default(),
        };
        Self { router: api::router(state.clone()), state }
    }

    /// Whether a path is one of the admin paths, which are not forwarded.
    pub fn serves(path: &str) -> bool {
        matches!(path, "/dataservers" | "/metrics" | "/healthz" | "/readyz")
            || path.starts_with("/dataservers/")
    }

    /// From now on `/readyz` says no, and who watches the page is told so and no more.
    pub fn drain(&self) {
        self.state.draining.cancel();
        self.state.stream.end(&self.state);
    }

    /// Tells those who watch the page what changes, for as long as it is polled.
    pub async fn tell_viewers(self) {
        self.state.stream.run(&self.state).await;
    }

    /// How many dataservers get requests, and why the gateway may not be sent any, if that is so.
    pub fn readiness(&self) -> (usize, Option<&'static str>) {
        readyz::readiness(&self.state, Instant::now())
    }

    /// The config was read again.
    pub fn reloaded(&self, reload: Reload) {
        self.state.reload.store(Some(Arc::new(reload)));
    }

    /// Answers a request from this peer.
    pub async fn answer(self, peer: IpAddr, request: Request<Body>) -> Response<Body> {
        let config = self.state.config.now();
        let Gateway { admin_allow, trusted_proxies, .. } = &config.gateway;
        if !client::is_in(admin_allow, peer, request.headers(), trusted_proxies) {
            let detail = "this client is in none of the networks of gateway.admin_allow";
            return problem(StatusCode::FORBIDDEN, "Forbidden", detail).map(Body::from);
        }
        match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}
