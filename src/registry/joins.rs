//! How fast new dataservers may join, and which of them are taken at their word.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How a new dataserver is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It gets requests at once.
    Trusted,
    /// It has to pass a probe first.
    OnProbation,
    /// Not now.
    TooFast,
}

/// Counts those that join: two buckets that time empties.
pub(super) struct Joins {
    levels: Mutex<Levels>,
}

struct Levels {
    /// A second.
    rate: f64,
    /// Within a TTL.
    trusted: f64,
    ttl_seconds: f64,
    at: Instant,
    /// Those of the last second.
    second: f64,
    /// Those of the last TTL.
    in_ttl: f64,
}

impl Levels {
    fn set_most(&mut self, rate: usize, trusted: usize, ttl: Duration) {
        // Config values of at most a million are exact.
        [self.rate, self.trusted] = [rate, trusted].map(|n| f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
        self.ttl_seconds = ttl.as_secs_f64();
        // Who joined by a higher limit must not keep others out for longer than by this one.
        self.second = self.second.min(self.rate);
        self.in_ttl = self.in_ttl.min(self.trusted * 2.0);
    }
}

impl Joins {
    pub(super) fn new(rate: usize, trusted: usize, ttl: Duration) -> Self {
        let (at, second, in_ttl) = (Instant::now(), 0.0, 0.0);
        let mut levels = Levels { rate: 0.0, trusted: 0.0, ttl_seconds: 0.0, at, second, in_ttl };
        levels.set_most(rate, trusted, ttl);
        Self { levels: Mutex::new(levels) }
    }

    /// From now on so many may.
    pub(super) fn set_most(&self, rate: usize, trusted: usize, ttl: Duration) {
        self.levels().set_most(rate, trusted, ttl);
    }

    pub(super) fn admit(&self, now: Instant) -> Admission {
        let mut levels = self.levels();
        let seconds = now.saturating_duration_since(levels.at).as_secs_f64();
        levels.at = levels.at.max(now);
        levels.second = (levels.second - seconds * levels.rate).max(0.0);
        levels.in_ttl = (levels.in_ttl - seconds * levels.trusted / levels.ttl_seconds).max(0.0);
        if levels.second + 1.0 > levels.rate {
            return Admission::TooFast;
        }
        levels.second += 1.0;
        let is_trusted = levels.in_ttl + 1.0 <= levels.trusted;
        // It overflows for as long as a flood lasts, and has room again a TTL after.
        levels.in_ttl = (levels.in_ttl + 1.0).min(levels.trusted * 2.0);
        if is_trusted { Admission::Trusted } else { Admission::OnProbation }
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn admitted(joins: &Joins, now: Instant, times: usize, how: Admission) -> usize {
        (0..times).filter(|_| joins.admit(now) == how).count()
    }

    #[test]
    fn so_many_join_in_a_second_and_more_in_the_next() {
        let (joins, now) = (Joins::new(10, 100, TTL), Instant::now());
        assert_eq!(admitted(&joins, now, 100, Admission::Trusted), 10);
        assert_eq!(joins.admit(now), Admission::TooFast);
        assert_eq!(admitted(&joins, now + TTL / 20, 100, Admission::Trusted), 5);
    }

    #[test]
    fn another_limit_holds_from_the_next_one_on() {
        let (joins, now) = (Joins::new(100, 0, TTL), Instant::now());
        assert_eq!(admitted(&joins, now, 50, Admission::OnProbation), 50);
        joins.set_most(10, 5, TTL);
        assert_eq!(joins.admit(now), Admission::TooFast);
        assert_eq!(admitted(&joins, now + TTL / 10, 100, Admission::Trusted), 5);
        joins.set_most(1_000, 1_000, TTL);
        assert_eq!(admitted(&joins, now + TTL / 10, 100, Admission::Trusted), 100);
    }

    #[test]
    fn nobody_is_trusted_if_it_is_said_so() {
        let (joins, now) = (Joins::new(1_000, 0, TTL), Instant::now());
        assert_eq!(admitted(&joins, now, 100, Admission::OnProbation), 100);
    }

    #[test]
    fn the_first_few_are_trusted_and_again_when_the_crowd_is_over() {
        let (joins, start) = (Joins::new(1_000, 16, TTL), Instant::now());
        assert_eq!(admitted(&joins, start, 100, Admission::Trusted), 16);
        // For as long as it goes on nobody is.
        for n in 1..100 {
            assert_eq!(admitted(&joins, start + n * TTL / 10, 10, Admission::Trusted), 0);
        }
        assert_eq!(admitted(&joins, start + TTL * 20, 16, Admission::Trusted), 16);
    }
}
