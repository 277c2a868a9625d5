//! Another dataserver for a request that the first could not answer.
//!
//! What was certainly not sent may go to anybody. Of the rest only what is safe to repeat (RFC 9110 §9.2.1) is
//! sent again, before anything of an answer was seen, and within a budget: no dataserver sees a POST twice.

mod budget;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::Method;
use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::Worker;
use super::access_log::Entry;
use super::balance::Routed;
use super::body::{Body, RequestBody};
use super::error::Error;
use crate::message::{Request, Response};
use crate::metrics;
use crate::registry::Failure;

pub(super) use budget::Budget;

/// How often a request is tried.
const TRIES: usize = 3;

/// How often one is tried while all it meets turn it away at once: a crowd of addresses at which nobody listens must not
/// stand between a request and those that serve.
const TRIES_AT_ONCE: usize = 32;

/// A request and who failed it before.
pub(super) struct Attempt {
    pub(super) request: Request<RequestBody>,
    pub(super) tried: Tried,
    /// When it began: the clock is read once for all that a try has to decide.
    pub(super) now: Instant,
}

/// The dataservers that failed a request, by their ids.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) ids: Vec<u64>,
    /// Of those the last that failed on a kept connection. It may only have closed that one, and is worth
    /// another try when nobody else is left.
    pub(super) again: Option<u64>,
    /// Where to tell of each try, if anybody wants to know.
    pub(super) entry: Option<Rc<Entry>>,
}

/// A try that failed. It holds a request, and is boxed: answers should not carry the room for it around.
pub(super) struct Failed {
    error: Error,
    left: Left,
    /// Who failed it, this time and before.
    tried: Tried,
}

/// What is left of a request that failed.
enum Left {
    /// All of it: nothing was sent.
    Whole(Request<RequestBody>),
    /// Its head; its body may be gone.
    Sent(Request<RequestBody>),
    Nothing,
}

impl Failed {
    /// No dataserver's doing: there is none, or it was the user's.
    pub(super) fn finally(error: Error, tried: Tried) -> Box<Self> {
        Box::new(Self { error, left: Left::Nothing, tried })
    }

    /// The dataserver's doing, before anything was sent.
    pub(super) fn unsent(routed: Routed, failure: Failure) -> Box<Self> {
        Self::of_upstream(routed, failure, false, Left::Whole)
    }

    /// The dataserver's doing, after something was sent.
    pub(super) fn sent(routed: Routed, failure: Failure) -> Box<Self> {
        Self::of_upstream(routed, failure, false, Left::Sent)
    }

    /// As [`sent`](Self::sent), on a connection that was kept from a request before: it may have been closed just then.
    pub(super) fn sent_on_kept(routed: Routed, failure: Failure) -> Box<Self> {
        Self::of_upstream(routed, failure, true, Left::Sent)
    }

    fn of_upstream(
        routed: Routed,
        failure: Failure,
        was_kept: bool,
        left: impl FnOnce(Request<RequestBody>) -> Left,
    ) -> Box<Self> {
        let Routed { attempt: Attempt { request, mut tried, now }, upstream, .. } = routed;
        upstream.failed(failure, was_kept, now);
        tried.ids.push(upstream.id);
        if let Some(entry) = &tried.entry {
            entry.try_failed(failure);
        }
        let error = Error::Upstream { addr: upstream.addr.clone(), failure };
        Box::new(Self { error, left: left(request), tried })
    }
}

/// Tries again.
#[derive(Clone)]
pub(super) struct Retry<S> {
    inner: S,
    worker: Rc<Worker>,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, worker: Rc<Worker>) -> Self {
        Self { inner, worker }
    }
}

impl<S> Service<Request<RequestBody>> for Retry<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Box<Failed>> + Clone,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = RetryFuture<S>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        self.worker.retry_budget.deposit();
        let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let is_repeatable = is_safe && request.body().is_end_stream();
        let tried = Tried { entry: request.body().entry(), ..Tried::default() };
        let mut service = self.inner.clone();
        let now = request.received();
        let attempt = service.call(Attempt { request, tried, now });
        let worker = self.worker.clone();
        RetryFuture { attempt, service, worker, is_repeatable, began: now, tries: 1, sent: 0, last: None }
    }
}

pin_project! {
    pub(super) struct RetryFuture<S: Service<Attempt>> {
        #[pin]
        attempt: S::Future,
        service: S,
        worker: Rc<Worker>,
        // It has no body and changes nothing.
        is_repeatable: bool,
        began: Instant,
        tries: usize,
        // Of those, the ones in which something of it was sent.
        sent: usize,
        // Why the try before this one failed.
        last: Option<Error>,
    }
}

impl<S> Future for RetryFuture<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Box<Failed>>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let Failed { error, left, tried } = match ready!(this.attempt.as_mut().poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(failed) => *failed,
            };
            let error = match error {
                // That nobody is left says less than why those before could not answer.
                Error::NoDataserver => this.last.take().unwrap_or(Error::NoDataserver),
                error => error,
            };
            let Some(reason) = reason(&error, matches!(left, Left::Whole(_))) else {
                return Poll::Ready(Err(error));
            };
            *this.sent += usize::from(matches!(left, Left::Sent(_)));
            let is_turned_away_at_once =
                *this.tries < TRIES_AT_ONCE && this.began.elapsed() < this.worker.settings().timeouts.connect;
            let request = match left {
                Left::Whole(request) if *this.tries < TRIES || is_turned_away_at_once => request,
                Left::Sent(request)
                    if *this.is_repeatable && *this.sent < TRIES && this.worker.retry_budget.withdraw() =>
                {
                    request.map(|_| RequestBody::default())
                }
                Left::Whole(_) | Left::Sent(_) | Left::Nothing => return Poll::Ready(Err(error)),
            };
            this.worker.counts.retried(reason);
            *this.tries += 1;
            *this.last = Some(error);
            this.attempt.set(this.service.call(Attempt { request, tried, now: Instant::now() }));
        }
    }
}

/// Why to ask another dataserver, if that is of use.
fn reason(error: &Error, is_unsent: bool) -> Option<metrics::Retry> {
    match error {
        Error::Upstream { failure, .. } => match failure {
            Failure::Resolve => Some(metrics::Retry::Resolve),
            Failure::Connect | Failure::NoSocket => Some(metrics::Retry::Connect),
            Failure::ConnectTimeout => Some(metrics::Retry::ConnectTimeout),
            Failure::Closed => Some(metrics::Retry::Closed),
            Failure::Lost => Some(metrics::Retry::Lost),
            Failure::Refused => Some(metrics::Retry::Refused),
            Failure::Protocol if is_unsent => Some(metrics::Retry::Protocol),
            Failure::HeadTimeout | Failure::Protocol | Failure::Body => None,
        },
        _ => None,
    }
}
