//! The body of a dataserver's answer.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use super::idle::Idle;
use super::stream::Stream;
use super::{BoxError, Progress};
use crate::http1::BodyError;
use crate::proxy::pool::Lease;
use crate::registry::Failure;

/// The body of a dataserver's answer. When it has ended, the connection that it came on can be used again.
pub(in crate::proxy) struct UpstreamBody {
    pub(super) stream: Stream,
    idle: Idle,
    /// Whether the user can take them.
    pub(super) trailers: bool,
    pub(super) lease: Option<Lease>,
    /// How the upload of its request goes, if there is one.
    upload: Option<Rc<Progress>>,
}

impl UpstreamBody {
    pub(in crate::proxy) fn new(
        stream: Stream,
        idle: Duration,
        lease: Lease,
        upload: Option<Rc<Progress>>,
    ) -> Self {
        Self { stream, idle: Idle::new(idle), trailers: true, lease: Some(lease), upload }
    }

    pub(super) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match this.stream.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                // Whatever its user has yet to read: kept for that, its connection would be the older for the next request.
                if frame.is_trailers() || this.stream.is_end_stream() {
                    this.end();
                }
                if frame.is_trailers() && !this.trailers {
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(this.fail(error)))),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Pending => loop {
                let stalled = ready!(this.idle.poll_stalled(cx));
                // A dataserver may make its answer of what it gets, for as long as that moves.
                if this.upload.as_ref().is_none_or(|upload| upload.time_left(this.idle.limit()).is_none()) {
                    return Poll::Ready(Some(Err(this.fail(stalled.into()))));
                }
                this.idle.moved();
            },
        }
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            // What comes on that connection from here on belongs to somebody else.
            self.stream = Stream::Nothing;
            lease.give_back();
        }
    }

    /// It broke off. Returns why, as far as that is known.
    fn fail(&mut self, error: BoxError) -> BoxError {
        let Some(lease) = self.lease.take() else { return error };
        let is_by_user = matches!(error.downcast_ref(), Some(BodyError::Request));
        if is_by_user || lease.has_upload_failed() {
            return BodyError::Request.into();
        }
        // Until now it answered.
        lease.upstream().failed(Failure::Body, false, Instant::now());
        error
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // One that has no bytes is not polled. Dropped before its end, the user has gone, and what is still to come
        // belongs to nobody.
        if self.stream.is_end_stream() {
            self.end();
        }
    }
}
