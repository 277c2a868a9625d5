//! A body from either side, made safe to pass on.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;

use super::BoxError;
use crate::http1;
use crate::proxy::headers::clean_trailers;

/// The body of a user's request, whichever HTTP brought it.
pub enum Incoming {
    /// Of HTTP/1.
    Http1(http1::Incoming),
    /// Of HTTP/2.
    Http2(hyper::body::Incoming),
}

/// A body from either side.
pub(in crate::proxy) enum Stream {
    Request(http1::Incoming),
    Answer(http1::Answer<TcpStream>),
    Http2(hyper::body::Incoming),
}

/// A stream was reset before its end, in a way that hyper shows as an end.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset before its end")]
struct Cut;

impl From<Incoming> for Stream {
    fn from(incoming: Incoming) -> Self {
        match incoming {
            Incoming::Http1(body) => Self::Request(body),
            Incoming::Http2(body) => Self::Http2(body),
        }
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl Stream {
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let frame = match self {
            Self::Request(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Self::Answer(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Self::Http2(body) => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(frame) => Some(frame.map_err(Into::into)),
                // hyper takes a reset or a GOAWAY with NO_ERROR for an end; what follows would pass for whole.
                None if !body.is_end_stream() => Some(Err(Cut.into())),
                None => None,
            },
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => Some(Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(clean_trailers(trailers)),
                Err(frame) => frame,
            })),
            frame => frame,
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Request(body) => body.is_end_stream(),
            Self::Answer(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Request(body) => body.size_hint(),
            Self::Answer(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }

    /// The user's connection itself, once it has switched protocols; `None` where it cannot.
    pub(super) fn on_upgrade(&self) -> Option<http1::OnUpgrade> {
        match self {
            Self::Request(body) => Some(body.on_upgrade()),
            Self::Answer(_) | Self::Http2(_) => None,
        }
    }
}
