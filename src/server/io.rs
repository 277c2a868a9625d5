//! A user's socket, which does not wait for ever for a reader that has stopped reading; and with the first bytes back, which
//! were read to tell HTTP/2 from HTTP/1.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::{self, SendAncillaryBuffer, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::server::TlsStream;

use crate::http1::Io;

/// Bytes that are read at once of what is dropped.
const DROPPED_READ: usize = 4096;

/// Bytes that are more than a ping or the like.
const MOVE: usize = 512;

/// What HTTP is spoken on.
pub(super) trait Stream: Io {
    /// The socket below it.
    fn socket(&self) -> &Socket;

    /// Whether the other side is to be told that this is the end, and not merely a cut.
    const SAYS_GOODBYE: bool;
}

impl Io for Socket {
    fn write_last(&mut self) {
        // The kernel adds the end to what waits to go out.
        self.flags |= SendFlags::MORE;
    }

    fn reset_when_closed(&mut self, reset: bool) {
        // A socket that does not linger is reset instead of closed.
        let _ = SockRef::from(&self.stream).set_linger(reset.then_some(Duration::ZERO));
    }

    fn lift_write_limit(&mut self) {
        (self.write_limit, self.write_timer) = (None, None);
    }
}

impl Io for TlsStream<Socket> {
    fn write_last(&mut self) {
        self.get_mut().0.write_last();
    }

    fn reset_when_closed(&mut self, reset: bool) {
        self.get_mut().0.reset_when_closed(reset);
    }

    fn lift_write_limit(&mut self) {
        self.get_mut().0.lift_write_limit();
    }
}

impl Stream for Socket {
    fn socket(&self) -> &Socket {
        self
    }

    const SAYS_GOODBYE: bool = false;
}

impl Stream for TlsStream<Socket> {
    fn socket(&self) -> &Socket {
        self.get_ref().0
    }

    const SAYS_GOODBYE: bool = true;
}

/// Closes at once, for a goodbye within `limit`.
pub(super) async fn close<S: Stream>(stream: &mut S, limit: Duration) {
    // Sends what waits for the end. Closed without this, the kernel would drop it where a user has sent more than was read.
    let ended = stream.shutdown();
    let _ = if S::SAYS_GOODBYE { timeout(limit, ended).await.unwrap_or(Ok(())) } else { ended.await };
}

/// Closes after what the user still sends was read and dropped, for `limit` or `bytes`: closed before, the kernel
/// would answer it with a reset, and the user might lose the answer that it has not read yet.
pub(super) async fn linger(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    limit: Duration,
    bytes: usize,
) {
    let drop_the_rest = async {
        stream.shutdown().await?;
        let mut left = bytes;
        while left > 0 {
            match poll_fn(|cx| poll_drop_some(stream, cx)).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(limit, drop_the_rest).await;
}

/// Reads some bytes and drops them; how many, 0 at the end.
fn poll_drop_some(stream: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut bytes = [MaybeUninit::uninit(); DROPPED_READ];
    let mut buf = ReadBuf::uninit(&mut bytes);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

/// A socket with a limit on how long a write waits, unless it was lifted.
pub(super) struct Socket {
    stream: TcpStream,
    flags: SendFlags,
    write_limit: Option<Rc<Cell<Duration>>>,
    /// Set while a write waits for the reader.
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Where to note when an answer moved on.
    moved: OnceCell<Rc<Cell<Instant>>>,
    /// What lasts for as long as the socket is open, whoever has it.
    _open: Rc<dyn Any>,
}

impl Socket {
    /// A write that waits longer than `write_limit` for its reader fails. `open` is let go of when it is closed.
    pub(super) fn new(stream: TcpStream, write_limit: Rc<Cell<Duration>>, open: Rc<dyn Any>) -> Self {
        let (flags, moved) = (SendFlags::NOSIGNAL, OnceCell::new());
        Self { stream, flags, write_limit: Some(write_limit), write_timer: None, moved, _open: open }
    }

    /// From now on notes there when a part of an answer was written, which is larger than what keeps a connection
    /// alive.
    pub(super) fn note_moves(&self, moved: Rc<Cell<Instant>>) {
        let _ = self.moved.set(moved); // it is told once
    }

    /// Writes by `send`, which can tell the kernel what tokio does not.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        mut send: impl FnMut(&TcpStream) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || Ok(send(&self.stream)?)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {} // it is ready no more
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if let (Some(moved), Poll::Ready(Ok(MOVE..))) = (self.moved.get(), written) {
            moved.set(Instant::now());
        }
    }

    fn poll_waited<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_timer = None;
            return written;
        }
        let Some(limit) = &self.write_limit else { return Poll::Pending };
        let limit = limit.get();
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
        let written = self.poll_send(cx, |stream| net::send(stream, buf, self.flags));
        self.note(&written);
        self.poll_waited(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if self.flags.contains(SendFlags::MORE) {
            let mut nothing_else = SendAncillaryBuffer::default();
            self.poll_send(cx, |stream| net::sendmsg(stream, bufs, &mut nothing_else, self.flags))
        } else {
            // After a part of a large answer tokio knows without a call that there is no room for more.
            Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        };
        self.note(&written);
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

/// HTTP/2 from a user, on a socket or on what was encrypted on one. hyper closes what it is given as soon as it has written
/// all, so that it is given one of two handles.
pub(super) struct Downstream<S> {
    stream: Rc<RefCell<S>>,
    /// The first bytes, which were read to see what is spoken and are yet to be read again.
    seen: BytesMut,
    /// Taken back when the user says something, or has to be waited for with what is written.
    is_still: Rc<Cell<bool>>,
}

impl<S> Downstream<S> {
    /// Of which these bytes were read.
    pub(super) fn new(stream: S, seen: BytesMut) -> Self {
        Self { stream: Rc::new(RefCell::new(stream)), seen, is_still: Rc::default() }
    }

    /// For when HTTP/2 has ended.
    pub(super) fn other_handle(&self) -> Self {
        Self { stream: self.stream.clone(), seen: BytesMut::new(), is_still: self.is_still.clone() }
    }

    /// Whether nothing has moved since it was last set.
    pub(super) fn is_still(&self) -> Rc<Cell<bool>> {
        self.is_still.clone()
    }

    fn note_wait<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_pending() {
            self.is_still.set(false);
        }
        written
    }

    /// As [`Socket::note_moves`].
    pub(super) fn note_moves(&self, moved: Rc<Cell<Instant>>)
    where
        S: Stream,
    {
        self.stream.borrow().socket().note_moves(moved);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Downstream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            let before = buf.filled().len();
            let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf);
            if buf.filled().len() > before {
                self.is_still.set(false);
            }
            return read;
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

impl<S: AsyncWrite + Unpin> AsyncWrite for Downstream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf);
        self.note_wait(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, bufs);
        self.note_wait(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx); // TLS holds bytes back
        self.note_wait(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::net::TcpListener;

    use super::*;

    /// Loopback delivers before the call that sends returns.
    #[tokio::test]
    async fn the_last_that_is_written_goes_out_with_the_end_also_to_a_user_that_has_sent_more() {
        for bufs in [&[&b"the last"[..]][..], &[b"the", b" last"]] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut user = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            user.set_nonblocking(true).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = Socket::new(stream, Rc::new(Cell::new(Duration::from_secs(60))), Rc::new(()));
            let read = |user: &mut std::net::TcpStream| {
                let mut bytes = [0; 64];
                user.read(&mut bytes).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned())
            };

            socket.write_all(b"the first").await.unwrap();
            assert_eq!(read(&mut user).unwrap(), "the first");
            socket.write_last();
            let bufs: Vec<_> = bufs.iter().map(|buf| io::IoSlice::new(buf)).collect();
            let written = match &bufs[..] {
                [buf] => socket.write(buf).await,
                bufs => socket.write_vectored(bufs).await,
            };
            assert_eq!(written.unwrap(), 8);
            assert_eq!(read(&mut user).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            user.write_all(b"more").unwrap();
            close(&mut socket, Duration::from_secs(60)).await;
            assert_eq!(read(&mut user).unwrap(), "the last");
        }
    }
}
