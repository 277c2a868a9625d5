//! What an operator asks: who is live, what was counted, whether the gateway runs and may be sent traffic.

mod accept;
mod api;
mod dataservers;
mod page;
mod readyz;
mod stream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use stream::Stream;

use crate::addr::Networks;
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
        let client = client(peer, request.headers(), trusted_proxies);
        if !client.is_some_and(|client| admin_allow.contains(client)) {
            let detail = "this client is in none of the networks of gateway.admin_allow";
            return problem(StatusCode::FORBIDDEN, "Forbidden", detail).map(Body::from);
        }
        match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Who asks: the peer, or whom trusted proxies say that they ask for. `None` if what they say cannot be read.
fn client(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> Option<IpAddr> {
    let mut client = peer;
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    // The last was added by whoever is nearest.
    for address in lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b',')) {
        if !trusted.contains(client) {
            break;
        }
        client = std::str::from_utf8(address.trim_ascii()).ok()?.parse().ok()?;
    }
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_trusted_proxies_it_is_whom_they_ask_for_who_asks() {
        let config: crate::config::Config = "gateway: {trusted_proxies: [10.0.0.0/8]}".parse().unwrap();
        let who = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", http::HeaderValue::from_static(line));
            }
            client(peer.parse().unwrap(), &headers, &config.gateway.trusted_proxies).map(|ip| ip.to_string())
        };
        assert_eq!(who("10.0.0.1", &[]).as_deref(), Some("10.0.0.1"));
        assert_eq!(who("10.0.0.1", &["127.0.0.1, 9.9.9.9"]).as_deref(), Some("9.9.9.9"));
        assert_eq!(who("10.0.0.1", &["127.0.0.1", "9.9.9.9, 10.0.0.2"]).as_deref(), Some("9.9.9.9"));
        assert_eq!(who("9.9.9.9", &["127.0.0.1"]).as_deref(), Some("9.9.9.9"), "nobody's word but a proxy's");
        assert_eq!(who("10.0.0.1", &["9.9.9.9, unknown"]), None);
    }
}
