//! The time that silence is measured in. It does not pass while the gateway itself stands still.
//!
//! A process that was stopped, or got no processor, has heard nobody meanwhile; that says nothing about
//! dataservers. So the control side ticks, and what lies between two ticks beyond [`ALLOWANCE`](Clock::allowance) is a pause that
//! counts for nobody. Whoever picks between the end of a pause and the tick that notices it is held back likewise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The stamp of the epoch, in nanoseconds: 13 days, so that what came before it has a stamp as well.
const EPOCH_STAMP: u64 = 1 << 50;

/// A limit that nobody's silence reaches.
const NEVER: u64 = u64::MAX;

/// Times as numbers that fit into an atomic: nanoseconds, of which those of a pause are left out.
pub(super) struct Clock {
    epoch: Instant,
    ttl: AtomicU64,
    /// How late a tick may be.
    allowance: AtomicU64,
    /// Who was silent for longer is not live.
    silence_limit: AtomicU64,
    /// When the last tick was, with pauses; [`NEVER`] before the first.
    ticked: AtomicU64,
    /// The sum of all pauses.
    paused: AtomicU64,
}

impl Clock {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            epoch: Instant::now(),
            ttl: AtomicU64::new(nanos(ttl)),
            allowance: AtomicU64::new(nanos(allowance(ttl))),
            silence_limit: AtomicU64::new(nanos(ttl)),
            ticked: AtomicU64::new(NEVER),
            paused: AtomicU64::new(0),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl.load(Ordering::Relaxed))
    }

    /// The next tick has to come within the allowance of this TTL. Whoever is not live by the silence limit stays so.
    pub(super) fn set_ttl(&self, ttl: Duration) {
        self.ttl.store(nanos(ttl), Ordering::Relaxed);
        self.allowance.store(nanos(allowance(ttl)), Ordering::Relaxed);
    }

    /// `None` is for ever.
    pub(super) fn set_silence_limit(&self, limit: Option<Duration>) {
        self.silence_limit.store(limit.map_or(NEVER, nanos), Ordering::Relaxed);
    }

    /// How late a tick may be.
    pub(super) fn allowance(&self) -> Duration {
        Duration::from_nanos(self.allowance.load(Ordering::Relaxed))
    }

    /// Says that the gateway runs. Returns for how long it did not, if that was too long.
    pub(super) fn tick(&self, now: Instant) -> Option<Duration> {
        let now = self.stamp(now);
        let last = self.ticked.load(Ordering::Relaxed);
        let pause = now.saturating_sub(last).saturating_sub(self.allowance.load(Ordering::Relaxed));
        if pause > 0 {
            self.paused.fetch_add(pause, Ordering::Relaxed);
        }
        // After the pause: whoever sees this tick sees that, too.
        self.ticked.store(now, Ordering::Release);
        (pause > 0).then(|| Duration::from_nanos(pause))
    }

    /// The time without pauses.
    pub(super) fn running(&self, now: Instant) -> u64 {
        let ticked = self.ticked.load(Ordering::Acquire);
        let ahead = ticked.saturating_add(self.allowance.load(Ordering::Relaxed));
        self.stamp(now).min(ahead).saturating_sub(self.paused.load(Ordering::Relaxed))
    }

    /// What was heard before this is not live.
    pub(super) fn oldest_live(&self, now: Instant) -> u64 {
        self.running(now).saturating_sub(self.silence_limit.load(Ordering::Relaxed))
    }

    fn stamp(&self, at: Instant) -> u64 {
        match at.checked_duration_since(self.epoch) {
            Some(after) => EPOCH_STAMP.saturating_add(nanos(after)),
            None => EPOCH_STAMP.saturating_sub(nanos(self.epoch.saturating_duration_since(at))),
        }
    }
}

/// A twentieth of the TTL, within reason.
fn allowance(ttl: Duration) -> Duration {
    (ttl / 20).clamp(Duration::from_millis(20), Duration::from_millis(500))
}

/// Saturates after 584 years.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn time_passes_with_the_ticks() {
        let (clock, start) = (Clock::new(TTL), Instant::now());
        let begin = clock.running(start);
        for n in 0..100 {
            assert_eq!(clock.tick(start + n * 100 * MILLI), None);
        }
        assert_eq!(clock.running(start + 99 * 100 * MILLI) - begin, nanos(9_900 * MILLI));
    }

    #[test]
    fn faults_29_a_pause_does_not_count_neither_before_it_is_noticed_nor_after() {
        let (clock, start) = (Clock::new(TTL), Instant::now());
        clock.tick(start);
        let begin = clock.running(start);
        let woken = start + Duration::from_secs(60);
        let most = nanos(clock.allowance());
        assert_eq!(clock.running(woken) - begin, most, "before the tick");
        assert_eq!(clock.tick(woken), Some(Duration::from_secs(60).saturating_sub(clock.allowance())));
        assert_eq!(clock.running(woken) - begin, most, "after it");
        clock.tick(woken + 100 * MILLI);
        assert_eq!(clock.running(woken + 100 * MILLI) - begin, most + nanos(100 * MILLI));
    }

    #[test]
    fn without_a_limit_nobody_is_too_old() {
        let (clock, start) = (Clock::new(TTL), Instant::now());
        clock.set_silence_limit(None);
        assert_eq!(clock.oldest_live(start + Duration::from_secs(3600)), 0);
    }
}
