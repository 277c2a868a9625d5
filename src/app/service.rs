//! What the service manager is told while the gateway runs: its state in words, and that it still works.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::crew::Pulse;
use super::supervise::Tasks;
use super::workers::Workers;
use crate::admin::Admin;
use crate::systemd::{Notifier, watchdog_interval};

/// How often it is seen to whether the state has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// Tells that the gateway listens, and from then on what there is to tell.
pub(super) fn attend(notifier: &Notifier, tasks: &mut Tasks, admin: &Admin, workers: &Workers) {
    if notifier.is_heard() {
        tasks.spawn_endless("state for the service manager", tell_state(notifier.clone(), admin.clone()));
    }
    if let Some(limit) = watchdog_interval() {
        tasks.spawn_endless("watchdog", feed_watchdog(notifier.clone(), workers.pulse(), limit));
    }
    notifier.ready();
}

/// Tells the state when it has changed, for as long as it is polled.
async fn tell_state(notifier: Notifier, admin: Admin) {
    let mut told = String::new();
    let mut ticks = interval(STATUS_INTERVAL);
    loop {
        ticks.tick().await;
        let (dataservers, reason) = admin.readiness();
        let state = match reason {
            None => format!("{dataservers} dataservers get requests"),
            Some(reason) => format!("not ready: {reason}"),
        };
        if state != told {
            notifier.status(&state);
            told = state;
        }
    }
}

/// Tells that the gateway works, twice in each time after which the service manager takes it for dead, as long as every
/// worker answers. Runs for as long as it is polled.
async fn feed_watchdog(notifier: Notifier, pulse: Pulse, limit: Duration) {
    let mut ticks = interval(limit / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if pulse.is_felt(limit / 4).await {
            notifier.watchdog();
        } else {
            tracing::error!("a worker does not answer: the service manager's watchdog is not fed");
        }
    }
}
