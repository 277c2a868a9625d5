//! A start in which nobody may find a gateway that knows no dataserver yet: users already wait at its listeners.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::config::Config;
use crate::liveness::snapshot::TakenIn;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// How often it is seen to whether dataservers were found.
const POLL: Duration = Duration::from_millis(20);

/// The longest that dataservers are waited for.
pub(super) fn longest(config: &Config) -> Duration {
    2 * config.common.heart_beat_time
}

/// Resolves when dataservers get requests, some of `known` among them if that is anybody, or when there seem to be none:
/// everybody who lives has had the time to be heard, and so has whoever answers a probe. Returns how many get requests.
pub(super) async fn dataservers_found(
    known: &TakenIn,
    registry: &Registry,
    metrics: &Metrics,
    config: &Config,
) -> usize {
    let begun = Instant::now();
    let (to_be_heard, to_be_probed) = (config.common.heart_beat_time, config.registry.probe.timeout);
    // An nsqd that cannot be reached is not waited for.
    while begun.elapsed() < longest(config) {
        let now = Instant::now();
        let [live, suspect, ..] = registry.states(now);
        // The first who passes its probe must not get all requests.
        let is_found = live > 0 && (known.members.is_empty() || known.is_answered(registry));
        let is_enough = is_found && (suspect == 0 || begun.elapsed() > to_be_probed);
        let all_had_time = metrics.first_connected().is_some_and(|since| now > since + to_be_heard);
        if is_enough || all_had_time {
            break;
        }
        sleep(POLL).await;
    }
    registry.publish();
    let (seconds, dataservers) = (begun.elapsed().as_secs_f64(), registry.live(Instant::now()));
    tracing::info!(seconds, dataservers, "who waits is let in");
    dataservers
}
