//! A count of bytes that may not pass a limit, given back by dropping what was charged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limit and what is used of it.
#[derive(Debug)]
pub(super) struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

/// A share of a [`Budget`]; dropping it gives the share back.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit_bytes: usize) -> Arc<Self> {
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0) })
    }

    /// Takes a share, or nothing at all where it does not fit.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        self.reserve(bytes).then(|| Charge { budget: Arc::clone(self), bytes })
    }

    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn reserve(&self, bytes: usize) -> bool {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit_bytes)
            })
            .is_ok()
    }
}

impl Charge {
    /// Makes the share this large. False, and no change, where it does not fit.
    #[must_use]
    pub(super) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.budget.reserve(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.budget.used_bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_does_not_fit_is_refused_and_a_dropped_one_comes_back() {
        let budget = Budget::new(10);
        let first = budget.charge(7).expect("fits");
        assert!(budget.charge(4).is_none());
        drop(first);
        assert!(budget.charge(10).is_some());
    }

    #[test]
    fn a_share_grows_and_shrinks_within_the_limit() {
        let budget = Budget::new(10);
        let mut charge = budget.charge(0).expect("nothing always fits");
        assert!(charge.resize(10));
        assert!(!charge.resize(11));
        assert!(charge.resize(4));
        assert!(budget.charge(6).is_some());
        assert!(budget.charge(7).is_none());
    }
}
