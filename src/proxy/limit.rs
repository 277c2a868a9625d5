//! The limit of requests under way.

use std::rc::Rc;
use std::task::{Context, Poll};

use tower::Service;

use super::Worker;
use super::body::Body;
use super::error::{Checked, Error};
use crate::message::{Request, Response};

/// Refuses what is over `limits.in_flight`.
#[derive(Clone)]
pub(super) struct InFlight<S> {
    inner: S,
    worker: Rc<Worker>,
}

impl<S> InFlight<S> {
    pub(super) fn new(inner: S, worker: Rc<Worker>) -> Self {
        Self { inner, worker }
    }

    /// Asked after this request was counted. Up to its even share a worker asks nobody; beyond that it adds
    /// up what all have. So an uneven spread of connections takes nothing away, and goes over the limit by no more
    /// than the shares of those that were idle.
    fn is_over(&self) -> bool {
        let limit = self.worker.settings().limits.in_flight as u64;
        let share = limit / self.worker.fixed.workers.max(1) as u64;
        self.worker.counts.in_flight() > share && self.worker.metrics.requests_in_flight() > limit
    }
}

impl<S, B> Service<Request<B>> for InFlight<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Checked<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if self.is_over() {
            return Checked::refused(Error::TooManyRequests);
        }
        Checked::passed(self.inner.call(request))
    }
}
