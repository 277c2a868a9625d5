//! Bodies on their way through. They stream: a frame is read when the other side has taken the one before.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::instrument::InFlight;
use super::pool::Lease;
use crate::http1;
use crate::registry::Failure;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a user.
pub struct Body {
    kind: Kind,
    /// Ends with the body: until then the request is under way.
    in_flight: Option<InFlight>,
}

enum Kind {
    Upstream(UpstreamBody),
    Bytes(Option<Bytes>),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// A body that is there already.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { kind: Kind::Bytes((!bytes.is_empty()).then_some(bytes)), in_flight: None }
    }

    /// Any body.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self { kind: Kind::Boxed(UnsyncBoxBody::new(body)), in_flight: None }
    }

    pub(super) fn from_upstream(body: UpstreamBody) -> Self {
        Self { kind: Kind::Upstream(body), in_flight: None }
    }

    /// The connection that the answer came on, if it is to be used for something else now.
    pub(super) fn take_lease(&mut self) -> Option<Lease> {
        match &mut self.kind {
            Kind::Upstream(body) => body.lease.take(),
            Kind::Bytes(_) | Kind::Boxed(_) => None,
        }
    }

    pub(super) fn keep(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Upstream(body) => Pin::new(body).poll_frame(cx),
            Kind::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Upstream(body) => body.incoming.is_end_stream(),
            Kind::Bytes(bytes) => bytes.is_none(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Upstream(body) => body.incoming.size_hint(),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

/// The body of a dataserver's answer. When it has ended, the connection that it came on can be used again.
pub(super) struct UpstreamBody {
    incoming: Incoming,
    idle: Idle,
    lease: Option<Lease>,
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, idle: Duration, lease: Lease) -> Self {
        Self { incoming, idle: Idle::new(idle), lease: Some(lease) }
    }

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                if frame.is_trailers() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let stalled = ready!(this.idle.poll_stalled(cx));
                this.fail();
                Poll::Ready(Some(Err(stalled.into())))
            }
        }
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn fail(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.upstream().counts.failed(Failure::Body);
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A body of known length is not polled to its end, but dropped when the length is reached. Dropped
        // before that, the user has gone, and what is still to come belongs to nobody.
        if self.incoming.is_end_stream() {
            self.end();
        }
    }
}

/// The body of a user's request.
pub(super) struct RequestBody {
    /// None for a request that is sent again, which never has a body.
    incoming: Option<super::Incoming>,
    idle: Idle,
    progress: Option<Rc<Progress>>,
}

/// How an upload goes, for whoever waits for its answer meanwhile.
pub(super) struct Progress {
    /// When the dataserver last took a part of it.
    last: Cell<Instant>,
    /// Whether the dataserver has taken all that there is, and waits for the user.
    waits_for_user: Cell<bool>,
}

impl Progress {
    /// How much of `limit` the dataserver has left to answer in; `None` if its time is over. While the user
    /// is waited for it has all of it: a body that does not move has a limit of its own.
    pub(super) fn time_left(&self, limit: Duration) -> Option<Duration> {
        if self.waits_for_user.get() {
            return Some(limit);
        }
        let idle = Instant::now().saturating_duration_since(self.last.get());
        limit.checked_sub(idle).filter(|left| !left.is_zero())
    }
}

impl RequestBody {
    pub(super) fn new(incoming: super::Incoming, idle: Duration) -> Self {
        Self { incoming: Some(incoming), idle: Idle::new(idle), progress: None }
    }

    /// No body.
    pub(super) fn none() -> Self {
        Self { incoming: None, idle: Idle::new(Duration::ZERO), progress: None }
    }

    /// The user's connection itself, once it has switched protocols; `None` where it cannot.
    pub(super) fn on_upgrade(&self) -> Option<http1::OnUpgrade> {
        match &self.incoming {
            Some(super::Incoming::Http1(body)) => Some(body.on_upgrade()),
            Some(super::Incoming::Http2(_)) | None => None,
        }
    }

    /// Where to see how the upload goes; `None` if there is no body to wait for.
    pub(super) fn progress(&mut self) -> Option<Rc<Progress>> {
        if self.is_end_stream() {
            return None;
        }
        let new = || Rc::new(Progress { last: Cell::new(Instant::now()), waits_for_user: Cell::new(false) });
        Some(self.progress.get_or_insert_with(new).clone())
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.idle.moved();
                if let Some(progress) = &this.progress {
                    progress.last.set(Instant::now());
                    progress.waits_for_user.set(false);
                }
                Poll::Ready(frame)
            }
            Poll::Pending => {
                if let Some(progress) = &this.progress {
                    progress.waits_for_user.set(true);
                }
                Poll::Ready(Some(Err(ready!(this.idle.poll_stalled(cx)).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(super::Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), super::Incoming::size_hint)
    }
}

/// A body did not move for `timeouts.idle_body`.
#[derive(Debug, thiserror::Error)]
#[error("the body did not move for {}", humantime::format_duration(*.0))]
pub(super) struct Stalled(Duration);

/// Notices a body that does not move. Most bodies never wait, and then it costs a flag; a timer is set
/// when one first does, and again only when it fires too early.
struct Idle {
    limit: Duration,
    moved: bool,
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self { limit, moved: true, since: None, timer: None }
    }

    fn moved(&mut self) {
        self.moved = true;
    }

    /// To be asked when there is nothing to read: ready once that has lasted too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Stalled> {
        if self.moved {
            self.since = Some(Instant::now());
            self.moved = false;
        }
        let deadline = self.since.unwrap_or_else(Instant::now) + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(Stalled(self.limit));
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_time_without_movement_counts() {
        let limit = Duration::from_secs(60);
        let mut idle = Idle::new(limit);
        let begun = Instant::now();
        for _ in 0..5 {
            let waited = tokio::time::timeout(limit / 2, poll_fn(|cx| idle.poll_stalled(cx))).await;
            assert!(waited.is_err(), "stalled though it moved");
            idle.moved();
        }
        poll_fn(|cx| idle.poll_stalled(cx)).await;
        assert_eq!(begun.elapsed(), limit / 2 * 5 + limit);
    }
}
