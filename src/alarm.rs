//! A limit on waiting that is set anew much more often than it is reached.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer whose deadline can be moved for next to nothing: the runtime is asked for a wake-up when somebody
/// first waits, and again only when that comes too early.
#[derive(Debug)]
pub struct Alarm {
    deadline: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// An alarm at this time.
    pub fn new(deadline: Instant) -> Self {
        Self { deadline, timer: None }
    }

    /// Moves it.
    pub fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Ready once the deadline has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_rings_at_the_deadline_that_was_set_last() {
        let begun = Instant::now();
        let mut alarm = Alarm::new(begun + SECOND);
        assert!(tokio::time::timeout(SECOND / 2, poll_fn(|cx| alarm.poll(cx))).await.is_err());
        alarm.set(begun + 3 * SECOND);
        assert!(tokio::time::timeout(2 * SECOND, poll_fn(|cx| alarm.poll(cx))).await.is_err(), "too early");
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(begun.elapsed(), 3 * SECOND);

        alarm.set(begun + 60 * SECOND);
        assert!(tokio::time::timeout(SECOND, poll_fn(|cx| alarm.poll(cx))).await.is_err());
        alarm.set(begun + 5 * SECOND);
        poll_fn(|cx| alarm.poll(cx)).await;
        assert_eq!(begun.elapsed(), 5 * SECOND, "also when it was moved to an earlier time");
    }
}
