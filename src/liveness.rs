//! When a dataserver leaves the set.
//!
//! Whether one is live is asked at every pick; this is where those that no longer are get removed, and where
//! that is told.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::metrics::Metrics;
use crate::registry::Registry;

/// Every label of `gateway_evictions_total{reason}`.
pub const REASONS: [&str; 1] = [EXPIRED];

const EXPIRED: &str = "expired";

/// Removes the silent every `interval`, for as long as it is polled.
pub async fn sweep(registry: Registry, metrics: Metrics, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ttl_seconds = registry.ttl().as_secs_f64();
        for evicted in registry.sweep(Instant::now()) {
            metrics.evicted(EXPIRED);
            tracing::info!(
                dataserver = %evicted.addr,
                reason = EXPIRED,
                silent_seconds = evicted.silent_for.as_secs_f64(),
                ttl_seconds,
                known_seconds = evicted.known_for.as_secs_f64(),
                heartbeats = evicted.heartbeats,
                "dataserver evicted"
            );
        }
    }
}
