//! A user's socket, which does not wait for ever for a reader that has stopped reading; and what reads from it, which
//! tells HTTP/2 from HTTP/1 by the first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// What an HTTP/2 client says first (RFC 9113 §3.4). It was chosen so that no HTTP/1 request begins like it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket with a limit on how long a write waits.
pub(super) struct Socket {
    stream: TcpStream,
    write_limit: Duration,
    /// Set while a write waits for the reader.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// A write that waits longer than `write_limit` for its reader fails.
    pub(super) fn new(stream: TcpStream, write_limit: Duration) -> Self {
        Self { stream, write_limit, write_timer: None }
    }

    fn poll_waited<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let limit = self.write_limit;
        let timer = self
            .write_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader does not read")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_waited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.poll_waited(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// HTTP from a user, on a socket or on what was encrypted on one.
pub(super) struct Downstream<S> {
    stream: S,
    /// The first bytes, which were read to see what is spoken and are yet to be read again.
    seen: Vec<u8>,
}

impl<S: AsyncRead + Unpin> Downstream<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, seen: Vec::new() }
    }

    /// Waits for as many bytes as it takes to tell.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        let mut bytes = [0; PREFACE.len()];
        loop {
            let rest = bytes.get_mut(self.seen.len()..).unwrap_or_default();
            let read = self.stream.read(rest).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.seen.extend_from_slice(rest.get(..read).unwrap_or_default());
            if !PREFACE.starts_with(&self.seen) {
                return Ok(false);
            }
            if self.seen.len() == PREFACE.len() {
                return Ok(true);
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Downstream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let now = self.seen.len().min(buf.remaining());
        buf.put_slice(self.seen.get(..now).unwrap_or_default());
        self.seen.drain(..now);
        if self.seen.is_empty() {
            self.seen = Vec::new();
            // The rest of the head has most likely come as well: one more read saves the parser a half-read head.
            if buf.remaining() > 0
                && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_read(cx, buf)
            {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Downstream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
