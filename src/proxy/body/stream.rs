//! A body from either side, made safe to pass on.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;

use super::BoxError;
use crate::http1;
use crate::proxy::headers::clean_trailers;

/// A body from either side.
pub(in crate::proxy) enum Stream {
    Request(http1::Incoming),
    Answer(http1::Answer<TcpStream>),
    /// In a box: HTTP/1 must not have the room for it.
    Http2(Box<Http2>),
    /// The message ends with its head.
    Nothing,
}

/// A body of HTTP/2, whose end is not where its Content-Length says but where the stream ends.
pub(in crate::proxy) struct Http2 {
    incoming: hyper::body::Incoming,
    /// What fills the length, until it is certain that nothing follows: passed on, the message would be whole.
    last: Option<Frame<Bytes>>,
    /// What came after that.
    trailers: Option<Frame<Bytes>>,
}

/// A stream was reset before its end, in a way that hyper shows as an end.
#[derive(Debug, thiserror::Error)]
#[error("the stream was reset before its end")]
struct Cut;

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl Stream {
    pub(in crate::proxy) fn http2(incoming: hyper::body::Incoming) -> Self {
        Self::Http2(Box::new(Http2 { incoming, last: None, trailers: None }))
    }

    /// Waits for the end of an answer that has no bytes by its length. Passed on before it, the answer would be whole,
    /// whatever comes.
    ///
    /// # Errors
    /// If it has bytes, or breaks off.
    pub(in crate::proxy) async fn end_of_nothing(&mut self) -> Result<(), BoxError> {
        let Self::Http2(body) = self else { return Ok(()) };
        while body.says_nothing_comes() {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                Some(frame) => body.trailers = Some(frame?).filter(Frame::is_trailers),
                None => break,
            }
        }
        Ok(())
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let frame = match self {
            Self::Request(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Self::Answer(body) => {
                ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map_err(Into::into))
            }
            Self::Http2(body) => ready!(body.poll_frame(cx)),
            Self::Nothing => None,
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) if frame.is_trailers() => Some(Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(clean_trailers(&trailers)),
                Err(frame) => frame,
            })),
            frame => frame,
        })
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Request(body) => body.is_end_stream(),
            Self::Answer(body) => body.is_end_stream(),
            Self::Http2(body) => {
                body.last.is_none() && body.trailers.is_none() && body.incoming.is_end_stream()
            }
            Self::Nothing => true,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Request(body) => body.size_hint(),
            Self::Answer(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }

    /// The user's connection itself, once it has switched protocols; `None` where it cannot.
    pub(super) fn on_upgrade(&self) -> Option<http1::OnUpgrade> {
        match self {
            Self::Request(body) => Some(body.on_upgrade()),
            Self::Answer(_) | Self::Http2(_) | Self::Nothing => None,
        }
    }
}

impl Http2 {
    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.size_hint();
        let Some(last) = self.last.as_ref().and_then(Frame::data_ref) else { return hint };
        hint.exact().map_or(hint, |rest| SizeHint::with_exact(rest.saturating_add(last.len() as u64)))
    }

    fn says_nothing_comes(&self) -> bool {
        self.trailers.is_none() && self.size_hint().exact() == Some(0) && !self.incoming.is_end_stream()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        loop {
            let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                // hyper takes a reset or a GOAWAY with NO_ERROR for an end; what follows would pass for whole.
                None if !self.incoming.is_end_stream() => return Poll::Ready(Some(Err(Cut.into()))),
                None => return Poll::Ready(self.last.take().map(Ok)),
            };
            if let Some(last) = self.last.take() {
                // h2 lets nothing follow what fills the length but an empty frame, or trailers.
                self.trailers = Some(frame).filter(Frame::is_trailers);
                if self.trailers.is_some() || self.incoming.is_end_stream() {
                    return Poll::Ready(Some(Ok(last)));
                }
                self.last = Some(last);
            } else if self.incoming.size_hint().exact() == Some(0)
                && !self.incoming.is_end_stream()
                && frame.is_data()
            {
                self.last = Some(frame).filter(|frame| frame.data_ref().is_some_and(|data| !data.is_empty()));
            } else {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}
