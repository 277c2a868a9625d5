//! Noticing a body that does not move.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// A body did not move for its limit.
#[derive(Debug, thiserror::Error)]
#[error("the body did not move for {}", humantime::format_duration(*.0))]
pub(in crate::proxy) struct Stalled(Duration);

/// Notices a body that does not move. Most bodies never wait, and then it costs a flag; a timer is set
/// when one first does, and again only when it fires too early.
pub(super) struct Idle {
    limit: Duration,
    moved: bool,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, moved: true, since: None, timer: None }
    }

    pub(super) fn moved(&mut self) {
        self.moved = true;
    }

    /// From now on this is too long.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    /// To be asked when there is nothing to read: ready once that has lasted too long.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        if self.moved {
            self.since = Some(Instant::now());
            self.moved = false;
        }
        let deadline = self.since.unwrap_or_else(Instant::now) + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(Stalled(self.limit));
            }
            timer.as_mut().reset(deadline);
        }
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
