//! How many requests may be sent again.

use std::cell::Cell;

use tokio::time::Instant;

use crate::config::RetryBudget;

/// For how many seconds what was not used is kept.
const KEPT_SECONDS: f64 = 10.0;

/// One worker's part of `gateway.retry_budget`: a purse that requests and time pay into, and repeats out of.
pub(in crate::proxy) struct Budget {
    a_request: Cell<f64>,
    a_second: Cell<f64>,
    purse: Cell<f64>,
    /// When time paid in last.
    paid: Cell<Instant>,
}

impl Budget {
    /// The part of one of `workers`. It begins full, or the first failure after a start would be shown to a user.
    pub(in crate::proxy) fn new(budget: RetryBudget, workers: usize) -> Self {
        let [a_request, a_second, purse] = <[Cell<f64>; 3]>::default();
        let purse_of_one = Self { a_request, a_second, purse, paid: Cell::new(Instant::now()) };
        purse_of_one.set(budget, workers);
        purse_of_one.purse.set(purse_of_one.a_second.get() * KEPT_SECONDS);
        purse_of_one
    }

    /// From now on so much is paid in. What is in the purse stays, up to what there may be.
    pub(in crate::proxy) fn set(&self, budget: RetryBudget, workers: usize) {
        // Config values of at most a million are exact.
        let [percent, per_second, workers] = [budget.percent, budget.per_second, workers]
            .map(|n| f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
        self.a_request.set(percent / 100.0);
        self.a_second.set(per_second / workers.max(1.0));
        self.purse.set(self.purse.get().min(self.most()));
    }

    /// At the most what ten seconds give, or a hundred requests: an old surplus is no licence for a storm.
    fn most(&self) -> f64 {
        (self.a_second.get() * KEPT_SECONDS).max(self.a_request.get() * 100.0)
    }

    /// A request came in.
    pub(super) fn deposit(&self) {
        self.purse.set((self.purse.get() + self.a_request.get()).min(self.most()));
    }

    /// Whether a request may be sent again; if so, it is paid for.
    pub(super) fn withdraw(&self) -> bool {
        let now = Instant::now();
        let seconds = now.saturating_duration_since(self.paid.replace(now)).as_secs_f64().min(KEPT_SECONDS);
        let a_second = self.a_second.get();
        let most = (a_second * KEPT_SECONDS).max(self.purse.get());
        let purse = (self.purse.get() + seconds * a_second).min(most);
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
