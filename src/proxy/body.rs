//! Bodies on their way through. They stream: a frame is read when the other side has taken the one before.

mod idle;
mod incoming;
mod request;
mod stream;
mod upload;
mod upstream;

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

use super::access_log::Answering;
use super::instrument::InFlight;
use super::pool::Lease;

pub(super) use idle::Stalled;
pub use incoming::Incoming;
pub(super) use request::{Progress, RequestBody};
pub(super) use stream::Stream;
pub(super) use upload::{Upload, UploadHandle, Uploading};
pub(super) use upstream::UpstreamBody;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer to a user.
pub struct Body {
    kind: Kind,
    /// Ends with the body: until then the request is under way.
    in_flight: Option<InFlight>,
    /// Tells the access log, if there is one.
    answering: Option<Answering>,
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
        Self { kind: Kind::Bytes((!bytes.is_empty()).then_some(bytes)), in_flight: None, answering: None }
    }

    /// Any body.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self { kind: Kind::Boxed(UnsyncBoxBody::new(body)), in_flight: None, answering: None }
    }

    pub(super) fn from_upstream(body: UpstreamBody) -> Self {
        Self { kind: Kind::Upstream(body), in_flight: None, answering: None }
    }

    /// The connection that the answer came on, if it is to be used for something else now.
    pub(super) fn take_lease(&mut self) -> Option<Lease> {
        match &mut self.kind {
            Kind::Upstream(body) => body.lease.take(),
            Kind::Bytes(_) | Kind::Boxed(_) => None,
        }
    }

    /// Lets no trailers through: the user cannot take them.
    pub(super) fn drop_trailers(&mut self) {
        if let Kind::Upstream(body) = &mut self.kind {
            body.trailers = false;
        }
    }

    pub(super) fn keep(&mut self, mut in_flight: InFlight) {
        if let Kind::Upstream(UpstreamBody { lease: Some(lease), .. }) = &self.kind {
            in_flight.answered_by(lease.timed());
        }
        self.in_flight = Some(in_flight);
    }

    pub(super) fn tell(&mut self, answering: Answering) {
        self.answering = Some(answering);
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(answering) = &self.answering {
            answering.dropped(http_body::Body::is_end_stream(self));
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match &mut self.kind {
            Kind::Upstream(body) => Pin::new(body).poll_frame(cx),
            Kind::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        };
        if let (Some(answering), Poll::Ready(frame)) = (&mut self.answering, &polled) {
            answering.polled(frame.as_ref());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Upstream(body) => body.stream.is_end_stream(),
            Kind::Bytes(bytes) => bytes.is_none(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Upstream(body) => body.stream.size_hint(),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}
