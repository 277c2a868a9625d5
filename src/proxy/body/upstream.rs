//! The body of a dataserver's answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;

use super::BoxError;
use super::idle::Idle;
use super::stream::Stream;
use crate::proxy::pool::Lease;
use crate::registry::Failure;

/// The body of a dataserver's answer. When it has ended, the connection that it came on can be used again.
pub(in crate::proxy) struct UpstreamBody {
    pub(super) stream: Stream,
    idle: Idle,
    /// Whether the user can take them.
    pub(super) trailers: bool,
    pub(super) lease: Option<Lease>,
}

impl UpstreamBody {
    pub(in crate::proxy) fn new(stream: Stream, idle: Duration, lease: Lease) -> Self {
        Self { stream, idle: Idle::new(idle), trailers: true, lease: Some(lease) }
    }

    pub(super) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match this.stream.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.idle.moved();
                if frame.is_trailers() {
                    this.end();
                    if !this.trailers {
                        return Poll::Ready(None);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.fail();
                Poll::Ready(Some(Err(error)))
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
            // Until now it answered.
            lease.upstream().failed(Failure::Body, false, Instant::now());
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // A body of known length is not polled to its end, but dropped when the length is reached. Dropped
        // before that, the user has gone, and what is still to come belongs to nobody.
        if self.stream.is_end_stream() {
            self.end();
        }
    }
}
