//! A body as hyper reads it, made safe to pass on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::BoxError;
use crate::proxy::headers::clean_trailers;

/// A body from either side.
pub(in crate::proxy) struct Stream {
    incoming: Incoming,
    is_http2: bool,
}

/// A stream was reset before its end, in a way that hyper shows as an end.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset before its end")]
struct Cut;

impl Stream {
    /// A body that comes by HTTP/2 or by HTTP/1.
    pub(in crate::proxy) fn new(incoming: Incoming, is_http2: bool) -> Self {
        Self { incoming, is_http2 }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) if !frame.is_trailers() => Some(Ok(frame)),
            Some(Ok(frame)) => Some(Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(clean_trailers(trailers)),
                Err(frame) => frame,
            })),
            Some(Err(error)) => Some(Err(error.into())),
            // hyper takes a reset or a GOAWAY with NO_ERROR for an end; what follows would pass for whole.
            None if self.is_http2 && !self.incoming.is_end_stream() => Some(Err(Cut.into())),
            None => None,
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
