//! The body of a request, as it comes in; and what a connection becomes when it switches protocols.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::chunked::{Chunked, Malformed, Part};
use super::head::Limits;

/// How the head says a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Known(u64),
    Chunked,
    UntilClose,
}

/// A body, as far as it was read.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes are left.
    Known(u64),
    Chunked(Chunked),
    /// It ends with the connection, as only an answer's can.
    UntilClose,
    /// It broke the rules or broke off.
    Failed,
}

/// Why a body cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is not coded as it says.
    #[error("the body is malformed: {0}")]
    Malformed(&'static str),
    /// The user left in the middle of it.
    #[error("the connection ended inside the body")]
    Incomplete,
    /// The body of the request that it answers failed, and with that the connection had to end.
    #[error("the request's own body broke off, is malformed or did not move")]
    Request,
    /// The connection failed.
    #[error("the connection failed inside the body: {0}")]
    Io(#[from] io::Error),
}

impl From<Malformed> for BodyError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(match malformed {
            Malformed::Size => "the size of a chunk",
            Malformed::Extension => "the extension of a chunk",
            Malformed::DataEnd => "the end of a chunk",
            Malformed::Trailers => "the trailers",
        })
    }
}

impl Decoder {
    pub(super) fn new(length: Length, limits: Limits) -> Self {
        match length {
            Length::Known(length) => Self::Known(length),
            Length::Chunked => Self::Chunked(Chunked::new(limits)),
            Length::UntilClose => Self::UntilClose,
        }
    }

    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Known(left) => *left == 0,
            Self::Chunked(chunked) => chunked.is_end(),
            Self::UntilClose | Self::Failed => false,
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Known(left) => SizeHint::with_exact(*left),
            Self::Chunked(chunked) if chunked.is_end() => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::UntilClose | Self::Failed => SizeHint::default(),
        }
    }

    /// Takes the next part of the body from the front of `bytes`.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Part, BodyError> {
        match self {
            Self::Known(0) => Ok(Part::End),
            Self::Known(_) | Self::UntilClose if bytes.is_empty() => Ok(Part::Incomplete),
            Self::UntilClose => Ok(Part::Data(std::mem::take(bytes).freeze())),
            Self::Known(left) => {
                let now = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(now as u64);
                // Most often it is all that is there, which need not be shared.
                let data = if now == bytes.len() { std::mem::take(bytes) } else { bytes.split_to(now) };
                Ok(Part::Data(data.freeze()))
            }
            Self::Chunked(chunked) => {
                let part = chunked.decode(bytes);
                if part.is_err() {
                    *self = Self::Failed;
                }
                Ok(part?)
            }
            Self::Failed => Err(BodyError::Incomplete),
        }
    }

    /// Nothing more comes. Whether that is the end of the body or inside it.
    pub(super) fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self {
            Self::UntilClose => {
                *self = Self::Known(0);
                Ok(())
            }
            Self::Known(0) => Ok(()),
            Self::Known(_) | Self::Chunked(_) | Self::Failed => {
                *self = Self::Failed;
                Err(BodyError::Incomplete)
            }
        }
    }
}

/// What a body asks of its connection.
pub(super) trait Source {
    fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>>;
    fn is_end(&self) -> bool;
    fn size_hint(&self) -> SizeHint;
    fn upgrade(&self) -> OnUpgrade;
}

/// A part of a body as others know it. `Incomplete` never leaves its connection, which waits for more.
pub(super) fn frame(part: Result<Part, BodyError>) -> Option<Result<Frame<Bytes>, BodyError>> {
    match part {
        Ok(Part::Data(data)) => Some(Ok(Frame::data(data))),
        Ok(Part::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
        Ok(Part::End | Part::Incomplete) => None,
        Err(error) => Some(Err(error)),
    }
}

/// The body of a request. It is read from the connection when it is asked for, by whoever asks.
pub struct Incoming {
    source: Rc<dyn Source>,
}

impl Incoming {
    pub(super) fn new(source: Rc<dyn Source>) -> Self {
        Self { source }
    }

    /// The connection itself, once the answer to this request was 101.
    pub fn on_upgrade(&self) -> OnUpgrade {
        self.source.upgrade()
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.source.poll_part(cx).map(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

/// Resolves when the connection has switched protocols; fails if it does not.
pub type OnUpgrade = oneshot::Receiver<Upgraded>;

/// A connection that speaks something else from now on.
pub struct Upgraded {
    /// What was read of it already.
    pub(super) unread: BytesMut,
    pub(super) io: Pin<Box<dyn Duplex>>,
}

pub(super) trait Duplex: AsyncRead + AsyncWrite {}

impl<T: AsyncRead + AsyncWrite> Duplex for T {}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return self.io.as_mut().poll_read(cx, buf);
        }
        let now = self.unread.len().min(buf.remaining());
        buf.put_slice(self.unread.get(..now).unwrap_or_default());
        self.unread.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}
