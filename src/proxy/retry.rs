//! Another dataserver for a request that the first could not take.
//!
//! Only what was certainly not sent is sent again, so that no dataserver can see a request twice.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::body::{Body, RequestBody};
use super::error::Error;
use crate::metrics::{self, Worker};
use crate::registry::Failure;

/// How many dataservers a request is offered to.
const TRIES: usize = 3;

/// A request and the ids of those that could not take it.
pub(super) struct Attempt {
    pub(super) request: Request<RequestBody>,
    pub(super) tried: Vec<u64>,
}

/// A try that failed.
pub(super) struct Failed {
    pub(super) error: Error,
    /// What was certainly not sent.
    pub(super) unsent: Option<Attempt>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, unsent: None }
    }
}

/// Tries again.
#[derive(Clone)]
pub(super) struct Retry<S> {
    inner: S,
    counts: Arc<Worker>,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, counts: Arc<Worker>) -> Self {
        Self { inner, counts }
    }
}

impl<S> Service<Request<RequestBody>> for Retry<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Failed> + Clone,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = RetryFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let mut service = self.inner.clone();
        let attempt = service.call(Attempt { request, tried: Vec::new() });
        RetryFuture { attempt, service, counts: self.counts.clone(), last: None }
    }
}

pin_project! {
    pub(super) struct RetryFuture<S: Service<Attempt>> {
        #[pin]
        attempt: S::Future,
        service: S,
        counts: Arc<Worker>,
        // Why the try before this one failed.
        last: Option<Error>,
    }
}

impl<S> Future for RetryFuture<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Failed>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let failed = match ready!(this.attempt.as_mut().poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(failed) => failed,
            };
            let error = match failed.error {
                // That nobody is left says less than why those before could not take it.
                Error::NoDataserver => this.last.take().unwrap_or(Error::NoDataserver),
                error => error,
            };
            match (failed.unsent, reason(&error)) {
                (Some(attempt), Some(reason)) if attempt.tried.len() < TRIES => {
                    this.counts.retried(reason);
                    *this.last = Some(error);
                    this.attempt.set(this.service.call(attempt));
                }
                _ => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Why to ask another dataserver, if that is of use.
fn reason(error: &Error) -> Option<metrics::Retry> {
    match error {
        Error::Upstream { failure, .. } => match failure {
            Failure::Resolve => Some(metrics::Retry::Resolve),
            Failure::Connect => Some(metrics::Retry::Connect),
            Failure::ConnectTimeout => Some(metrics::Retry::ConnectTimeout),
            Failure::Closed => Some(metrics::Retry::Closed),
            Failure::HeadTimeout | Failure::Protocol | Failure::Body => None,
        },
        _ => None,
    }
}
