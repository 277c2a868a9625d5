//! Counting requests: each from its head to the end of its answer's body.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Method;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::body::Body;
use super::pool::Timed;
use crate::message::{Request, Response};
use crate::metrics::Worker;

/// A user that left before the answer came. Not a status that is ever sent; nginx counts it so, too.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Counts what passes.
#[derive(Clone)]
pub(super) struct Instrument<S> {
    inner: S,
    counts: Arc<Worker>,
}

impl<S> Instrument<S> {
    pub(super) fn new(inner: S, counts: Arc<Worker>) -> Self {
        Self { inner, counts }
    }
}

/// One request under way. It rides in the answer's body and counts when that is dropped.
pub(super) struct InFlight {
    counts: Arc<Worker>,
    method: Method,
    begun: Instant,
    status: u16,
    /// The dataserver that answers, if one does.
    upstream: Option<Timed>,
}

impl InFlight {
    pub(super) fn answered_by(&mut self, upstream: Timed) {
        self.upstream = Some(upstream);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = Instant::now();
        self.counts.end();
        self.counts.answered(&self.method, self.status, now.saturating_duration_since(self.begun));
        if let Some(upstream) = self.upstream.take() {
            upstream.ended(now);
        }
    }
}

impl<S, B> Service<Request<B>> for Instrument<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = InstrumentFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.counts.begin();
        let in_flight = InFlight {
            counts: self.counts.clone(),
            method: request.method().clone(),
            begun: request.received(),
            status: CLIENT_CLOSED_REQUEST,
            upstream: None,
        };
        InstrumentFuture { inner: self.inner.call(request), in_flight: Some(in_flight) }
    }
}

pin_project! {
    pub(super) struct InstrumentFuture<F> {
        #[pin]
        inner: F,
        in_flight: Option<InFlight>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for InstrumentFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.inner.poll(cx)) {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if let Some(mut in_flight) = this.in_flight.take() {
            in_flight.status = response.status().as_u16();
            response.body_mut().keep(in_flight);
        }
        Poll::Ready(Ok(response))
    }
}
