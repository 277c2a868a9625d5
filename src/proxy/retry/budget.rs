//! How many requests may be sent again.

use std::cell::Cell;

use tokio::time::Instant;

use crate::config::RetryBudget;

/// For how many seconds what was not used is kept.
const KEPT_SECONDS: f64 = 10.0;

/// One worker's part of `gateway.retry_budget`: a purse that requests and time pay into, and repeats out of.
pub(in crate::proxy) struct Budget {
    a_request: f64,
    a_second: f64,
    purse: Cell<f64>,
    /// When time paid in last.
    paid: Cell<Instant>,
}

impl Budget {
    /// The part of one of `workers`. It begins full, or the first failure after a start would be shown to a user.
    pub(in crate::proxy) fn new(budget: RetryBudget, workers: usize) -> Self {
        // Config values of at most a million are exact.
        let [percent, per_second, workers] = [budget.percent, budget.per_second, workers]
            .map(|n| f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
        let a_second = per_second / workers.max(1.0);
        Self {
            a_request: percent / 100.0,
            a_second,
            purse: Cell::new(a_second * KEPT_SECONDS),
            paid: Cell::new(Instant::now()),
        }
    }

    /// A request came in.
    pub(super) fn deposit(&self) {
        // At the most what ten seconds give, or a hundred requests: an old surplus is no licence for a storm.
        let most = (self.a_second * KEPT_SECONDS).max(self.a_request * 100.0);
        self.purse.set((self.purse.get() + self.a_request).min(most));
    }

    /// Whether a request may be sent again; if so, it is paid for.
    pub(super) fn withdraw(&self) -> bool {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.paid.replace(now)).as_secs_f64().min(KEPT_SECONDS);
        let most = (self.a_second * KEPT_SECONDS).max(self.purse.get());
        let purse = (self.purse.get() + seconds * self.a_second).min(most);
        let may = purse >= 1.0 - 1e-6; // five fifths are a little less than one
        self.purse.set(if may { (purse - 1.0).max(0.0) } else { purse });
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn withdrawals(budget: &Budget) -> usize {
        (0..10_000).take_while(|_| budget.withdraw()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_requests_pay_for_repeats() {
        let budget = Budget::new(RetryBudget { percent: 20, per_second: 10 }, 2);
        assert_eq!(withdrawals(&budget), 50, "ten seconds' worth at the start");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(withdrawals(&budget), 10, "this worker's five a second");
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget), 20, "a fifth of the requests");
        for _ in 0..100_000 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget), 50, "an old surplus is cut");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_repeated_on_a_budget_of_nothing() {
        let budget = Budget::new(RetryBudget { percent: 0, per_second: 0 }, 1);
        budget.deposit();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(withdrawals(&budget), 0);
    }
}
