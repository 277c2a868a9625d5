//! A user's socket: it tells HTTP/2 from HTTP/1 by the first bytes, and does not wait for ever for a
//! reader that has stopped reading.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};

/// What an HTTP/2 client says first (RFC 9113 §3.4). It was chosen so that no HTTP/1 request begins like it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that are read at once to see what is spoken. Most heads fit.
const FIRST_READ: usize = 4096;

/// A connection from a user.
pub(super) struct Downstream {
    stream: TcpStream,
    /// The first bytes, which were read to see what is spoken and are yet to be read again.
    seen: BytesMut,
    write_limit: Duration,
    /// Set while a write waits for the reader.
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl Downstream {
    /// A write that waits longer than `write_limit` for its reader fails.
    pub(super) fn new(stream: TcpStream, write_limit: Duration) -> Self {
        Self { stream, seen: BytesMut::new(), write_limit, write_timer: None }
    }

    /// Waits for as many bytes as it takes to tell. What else has come is read at once: most first requests
    /// are in it.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        loop {
            poll_fn(|cx| self.poll_see(cx)).await?;
            if self.seen.starts_with(PREFACE) {
                return Ok(true);
            }
            if !PREFACE.starts_with(&self.seen) {
                return Ok(false);
            }
        }
    }

    fn poll_see(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [MaybeUninit::uninit(); FIRST_READ];
        let mut buf = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.seen.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// The first bytes, for whoever reads on from there.
    pub(super) fn take_seen(&mut self) -> BytesMut {
        std::mem::take(&mut self.seen)
    }

    /// Closes after what the user still sends was read and dropped, for `limit` or `bytes`: closed before, the kernel
    /// would answer it with a reset, and the user might lose the answer that it has not read yet.
    pub(super) async fn linger(mut self, limit: Duration, bytes: usize) {
        let _ = timeout(limit, async {
            self.shutdown().await?;
            let mut left = bytes;
            while left > 0 {
                let read = poll_fn(|cx| {
                    let mut bytes = [MaybeUninit::uninit(); FIRST_READ];
                    let mut buf = ReadBuf::uninit(&mut bytes);
                    ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
                    Poll::Ready(io::Result::Ok(buf.filled().len()))
                });
                match read.await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            io::Result::Ok(())
        })
        .await;
    }

    /// Closes so that the user cannot take what it got for all there is.
    pub(super) fn reset(self) {
        // A socket that does not linger is reset instead of closed.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
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

impl AsyncRead for Downstream {
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
        self.seen.advance(now);
        if self.seen.is_empty() {
            self.seen = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Downstream {
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
