//! All requests together, second by second.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::form::{millis, rate};
use crate::metrics::Observed;

/// How many seconds are kept.
const KEPT: usize = 300;

/// The last minutes. It goes on while nobody watches, so that whoever comes to look sees what led to what there is: it
/// costs the same however many dataservers there are.
#[derive(Default)]
pub(super) struct Graph {
    before: Option<(Instant, Observed)>,
    samples: VecDeque<Sample>,
}

/// One second: answers, and those of them with a status of 500 or more, per second; the time that half of them and 99
/// of 100 did not exceed, in milliseconds; and how many dataservers got requests.
#[derive(Debug, Clone, Copy, Serialize, PartialEq)]
pub(super) struct Sample(f64, f64, Option<f64>, Option<f64>, usize);

impl Graph {
    pub(super) fn sample(&mut self, now: Instant, observed: &Observed, live: usize) {
        let before = self.before.replace((now, *observed));
        let Some((since, before)) = before.filter(|(since, _)| now > *since) else { return };
        let durations = observed.durations.since(&before.durations);
        let passed = now - since;
        let quantile = |part| durations.quantile(part).map(millis);
        let sample = Sample(
            rate(per_second(durations.count(), passed)),
            rate(per_second(observed.errors.saturating_sub(before.errors), passed)),
            quantile(0.5),
            quantile(0.99),
            live,
        );
        if self.samples.len() >= KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    pub(super) fn samples(&self) -> &VecDeque<Sample> {
        &self.samples
    }

    pub(super) fn last(&self) -> Option<Sample> {
        self.samples.back().copied()
    }
}

pub(super) fn per_second(count: u64, passed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 64 bits")]
    let count = count as f64;
    count / passed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let (metrics, start) = (Metrics::new(1, &[], &[]).unwrap(), Instant::now());
        let worker = metrics.worker(0).unwrap();
        let mut graph = Graph::default();
        let mut answered = |status, seconds| {
            worker.answered(&http::Method::GET, status, Duration::from_millis(20));
            graph.sample(start + Duration::from_secs(seconds), &metrics.observed(), 3);
            graph.last()
        };
        assert_eq!(answered(200, 0), None, "what came before it began is not of this second");
        let Sample(requests, errors, p50, _, live) = answered(503, 2).unwrap();
        assert_eq!((requests, errors, live), (0.5, 0.5, 3));
        assert!(p50.is_some_and(|p50| (10.0..=25.0).contains(&p50)), "{p50:?}");
        for seconds in 3..KEPT as u64 * 2 {
            answered(200, seconds);
        }
        assert_eq!(graph.samples().len(), KEPT);
    }
}
