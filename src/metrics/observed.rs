//! What people see of all requests together, as numbers rather than as text for Prometheus.

use std::time::Duration;

use super::worker::{BUCKETS, Protocol};
use super::{Metrics, Worker};

/// What was counted of requests and their answers so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observed {
    /// How long answers took that have ended, the gateway's own errors included.
    pub durations: Durations,
    /// Those among them whose status was 500 or more.
    pub errors: u64,
    /// Requests whose answer has not ended.
    pub in_flight: u64,
    /// Open connections from users.
    pub connections: u64,
}

/// Durations, as far as the buckets of the histogram tell.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Durations {
    /// How many fell into each bucket, and their sum in nanoseconds.
    pub(super) buckets: [(u64, u64); BUCKETS.len() + 1],
}

impl Metrics {
    /// What was counted so far, on all workers.
    pub fn observed(&self) -> Observed {
        let mut observed = Observed::default();
        for worker in &self.inner.workers {
            observed.add(worker);
        }
        observed
    }
}

impl Observed {
    fn add(&mut self, worker: &Worker) {
        for (sum, (count, nanos)) in self.durations.buckets.iter_mut().zip(worker.durations()) {
            *sum = (sum.0 + count, sum.1 + nanos);
        }
        self.errors += worker.errors();
        self.in_flight += worker.in_flight();
        self.connections += Protocol::ALL.iter().map(|protocol| worker.connections(*protocol)).sum::<u64>();
    }
}

impl Durations {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }

    /// Those that came after `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut new = *self;
        for (sum, had) in new.buckets.iter_mut().zip(&before.buckets) {
            *sum = (sum.0.saturating_sub(had.0), sum.1.saturating_sub(had.1));
        }
        new
    }

    /// The duration that this part of them does not exceed, from 0 to 1; `None` if there are none. Within a bucket it
    /// is estimated so that the bucket's mean, which is known, comes out right.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "an estimate needs no 64 bits")]
        let float = |n: u64| n as f64;
        let rank = part * float(self.count());
        let mut below = 0.0;
        let lower = std::iter::once(0.0).chain(BUCKETS);
        let upper = BUCKETS.into_iter().map(Some).chain([None]);
        for ((lower, upper), (count, nanos)) in lower.zip(upper).zip(self.buckets) {
            if count == 0 {
                continue;
            }
            if below + float(count) >= rank {
                let mean = float(nanos) / float(count) / 1e9;
                let upper = upper.unwrap_or(2.0 * mean - lower).max(lower);
                return Some(Duration::from_secs_f64(within(
                    lower,
                    upper,
                    mean,
                    (rank - below) / float(count),
                )));
            }
            below += float(count);
        }
        None
    }
}

/// The value at `part` of a bucket that holds values from `lower` to `upper` with this mean: on a curve
/// `lower + width × part^k`, whose mean is at `1 / (k + 1)` of the width.
fn within(lower: f64, upper: f64, mean: f64, part: f64) -> f64 {
    let width = upper - lower;
    if width <= 0.0 {
        return lower.max(0.0);
    }
    let mean_at = ((mean - lower) / width).clamp(0.01, 0.99);
    lower + width * part.clamp(0.0, 1.0).powf((1.0 - mean_at) / mean_at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observed(millis: &[u64]) -> Durations {
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let worker = metrics.worker(0).unwrap();
        for millis in millis {
            worker.answered(&http::Method::GET, 200, Duration::from_millis(*millis));
        }
        metrics.observed().durations
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(observed(&[]).quantile(0.5), None);
        let all = observed(&[3, 4]);
        assert_eq!(all.since(&all).quantile(0.99), None);
    }

    #[test]
    fn errors_are_what_is_500_or_more() {
        let metrics = Metrics::new(2, &[], &[]).unwrap();
        for (worker, status) in [(0, 200), (0, 500), (1, 404), (1, 503), (1, 499)] {
            metrics.worker(worker).unwrap().answered(&http::Method::GET, status, Duration::from_millis(1));
        }
        let observed = metrics.observed();
        assert_eq!((observed.errors, observed.durations.count()), (2, 5));
    }

    #[test]
    fn slow_ones_are_seen_at_their_end() {
        let mut millis = vec![2; 98];
        millis.extend([700, 900]);
        let durations = observed(&millis);
        let [p50, p99] = [0.5, 0.99].map(|part| durations.quantile(part).unwrap().as_secs_f64());
        assert!((0.001..=0.0025).contains(&p50), "{p50}");
        assert!((0.5..=1.0).contains(&p99), "{p99}");
    }

    proptest! {
        #[test]
        fn a_quantile_lies_in_the_bucket_of_the_value_that_has_its_rank(
            mut millis in proptest::collection::vec(0u64..200_000, 1..60), part in 0.0f64..=1.0,
        ) {
            let durations = observed(&millis);
            millis.sort_unstable();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let index = ((part * millis.len() as f64).ceil() as usize).clamp(1, millis.len()) - 1;
            #[expect(clippy::cast_precision_loss)]
            let value = millis[index] as f64 / 1e3;
            let quantile = durations.quantile(part).unwrap().as_secs_f64();
            let upper = BUCKETS.into_iter().find(|bound| value <= *bound).unwrap_or(f64::MAX);
            let lower = BUCKETS.into_iter().rev().find(|bound| value > *bound).unwrap_or(0.0);
            prop_assert!((lower - 1e-9..=upper + 1e-9).contains(&quantile), "{quantile} of {lower} to {upper}");
        }
    }
}
