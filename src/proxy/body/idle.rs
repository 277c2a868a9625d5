//! Noticing a body that does not move.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;

/// A body did not move for its limit.
#[derive(Debug, thiserror::Error)]
#[error("the body did not move for {}", humantime::format_duration(*.0))]
pub(in crate::proxy) struct Stalled(Duration);

/// Notices a body that does not move. Most bodies never wait, and then it costs a flag.
pub(super) struct Idle {
    limit: Duration,
    moved: bool,
    alarm: Option<Alarm>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, moved: true, alarm: None }
    }

    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// From now on this is too long.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// To be asked when there is nothing to read: ready once that has lasted too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        let alarm = match &mut self.alarm {
            Some(alarm) if !self.moved => alarm,
            alarm => {
                self.moved = false;
                let deadline = Instant::now() + self.limit;
                let alarm = alarm.get_or_insert_with(|| Alarm::new(deadline));
                alarm.set(deadline);
                alarm
            }
        };
        ready!(alarm.poll(cx));
        Poll::Ready(Stalled(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_time_without_movement_counts() {
        let limit = Duration::from_secs(60);
        let mut idle = Idle::new(limit);
        let begun = Instant::now();
        for _ in 0..5 {
            let waited = tokio::time::timeout(limit / 2, poll_fn(|cx| idle.poll_stalled(cx))).await;
            assert!(waited.is_err(), "stalled though it moved");
            idle.moved();
        }
        poll_fn(|cx| idle.poll_stalled(cx)).await;
        assert_eq!(begun.elapsed(), limit / 2 * 5 + limit);
    }
}
