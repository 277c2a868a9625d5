//! A socket, what was read from it and not yet taken, and the body that comes in on it.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::body::{BodyError, Decoder};
use super::chunked::Part;

/// What a connection can be made of.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {
    /// What is written from now on is the last, and the end follows at once: they may go out together.
    fn write_last(&mut self) {}

    /// Whether from now on it is reset where it is closed, by whatever closes it.
    fn reset_when_closed(&mut self, _reset: bool) {}

    /// A write may wait for its reader for as long as that likes from now on.
    fn lift_write_limit(&mut self) {}
}

impl Io for TcpStream {}

/// Bytes that are read at once where a user's head is expected.
const HEAD_READ: usize = 16 * 1024;

/// Bytes that are read at once where the head of an answer is expected, with as much of its body. An answer of some
/// 100 KiB costs less in two pieces than in one: the first is read by its user while the second is fetched.
const ANSWER_READ: usize = 64 * 1024;

/// Bytes that cost nothing to look at again, and may tell what is spoken.
const FEW: usize = 32;

/// The most bytes that are copied out of the memory that they were read to. More stay where they are.
const COPIED: usize = 4 * 1024;

/// The memory that all connections of a thread read into. What is read is taken out at once, so that a
/// connection that waits needs none of its own.
pub struct Scratch {
    bytes: RefCell<BytesMut>,
    size: Cell<usize>,
}

impl Scratch {
    /// Reads so many bytes of a body at once; a connection whose other side is slow holds on to as many.
    pub fn new(size: usize) -> Self {
        let scratch = Self { bytes: RefCell::default(), size: Cell::default() };
        scratch.set_body_read(size);
        scratch
    }

    /// From now on so many.
    pub fn set_body_read(&self, size: usize) {
        self.size.set(size.max(HEAD_READ));
    }

    /// Memory with nothing in it and with room for at least half of what is read at once.
    fn room(&self) -> RefMut<'_, BytesMut> {
        let mut bytes = self.bytes.borrow_mut();
        bytes.clear();
        let size = self.size.get();
        if bytes.capacity() < size / 2 {
            bytes.reserve(size); // the same memory again, once nobody holds a part of it
        }
        bytes
    }
}

/// What is read with a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    /// The beginning of the body, and it stays where it was read to.
    Body,
    /// Little, and it is copied out: a user who leaves it there must not hold on to memory that all read into.
    Little,
}

/// Why a head cannot be read.
#[derive(Debug)]
pub(super) enum ReadError<E> {
    /// The other side has closed, or the connection failed.
    Ended,
    /// The kernel has given the connection up: it had not heard from the other side for too long.
    Lost,
    /// It is none.
    Parse(E),
}

/// One end of a connection.
pub(super) struct Wire<IO> {
    /// None once the connection has ended or become something else.
    pub(super) io: Option<IO>,
    pub(super) unread: BytesMut,
    /// Of the message that was read last.
    pub(super) body: Decoder,
    ahead: Ahead,
    /// What a write was told of the connection's failure: a socket tells it once, and then that nothing more comes.
    failed: Option<io::ErrorKind>,
}

impl<IO: Io> Wire<IO> {
    pub(super) fn new(io: IO, unread: BytesMut, ahead: Ahead) -> Self {
        Self { io: Some(io), unread, body: Decoder::Known(0), ahead, failed: None }
    }

    pub(super) fn poll_io<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut IO>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.io {
            Some(io) => poll(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Writes by `poll`.
    pub(super) fn poll_write<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut IO>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = self.poll_io(poll);
        // That the other side takes no more says nothing of what it has sent.
        if let Poll::Ready(Err(error)) = &written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.failed = Some(error.kind());
        }
        written
    }

    /// Reads into `buf`; the number of bytes, 0 at the end.
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut impl BufMut) -> Poll<io::Result<usize>> {
        match (ready!(self.poll_io(|io| poll_read_buf(io, cx, buf)))?, self.failed) {
            (0, Some(failed)) => Poll::Ready(Err(failed.into())),
            (read, _) => Poll::Ready(Ok(read)),
        }
    }

    /// As [`Io::write_last`].
    pub(super) fn write_last(&mut self) {
        if let Some(io) = &mut self.io {
            io.write_last();
        }
    }

    /// As [`Io::reset_when_closed`].
    pub(super) fn reset_when_closed(&mut self, reset: bool) {
        if let Some(io) = &mut self.io {
            io.reset_when_closed(reset);
        }
    }

    /// Reads a head, which `parse` finds at the front of the bytes it is given, with its length. `parsed` is how much
    /// of what is unread it has seen: 0 before each head.
    pub(super) fn poll_head<H, E>(
        &mut self,
        scratch: &Scratch,
        cx: &mut Context<'_>,
        limit: usize,
        parsed: &mut usize,
        mut parse: impl FnMut(&[u8]) -> Result<Option<(usize, H)>, E>,
    ) -> Poll<Result<H, ReadError<E>>> {
        loop {
            if self.may_hold_head(limit, *parsed) {
                *parsed = self.unread.len();
                if let Some((bytes, head)) = parse(&self.unread).map_err(ReadError::Parse)? {
                    self.take(bytes);
                    return Poll::Ready(Ok(head));
                }
            }
            // Most heads come in one piece, and are taken from where they were read to.
            let mut at_once = Ok(None);
            let read = self.poll_read_head(scratch, cx, |bytes| {
                *parsed = bytes.len();
                at_once = parse(bytes);
                at_once.as_ref().map_or(0, |found| found.as_ref().map_or(0, |(taken, _)| *taken))
            });
            match ready!(read) {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Poll::Ready(Err(ReadError::Lost));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(ReadError::Ended)),
                Ok(_) => {}
            }
            if let Some((_, head)) = at_once.map_err(ReadError::Parse)? {
                return Poll::Ready(Ok(head));
            }
        }
    }

    /// Whether it is worth to parse what is unread. A head that comes byte by byte must not be parsed for each, beyond
    /// the first few.
    fn may_hold_head(&self, limit: usize, parsed: usize) -> bool {
        if parsed < FEW || self.unread.len() > limit {
            return !self.unread.is_empty();
        }
        // The end may have begun in what was seen before.
        let fresh = self.unread.get(parsed.saturating_sub(2)..).unwrap_or_default();
        fresh.windows(2).any(|end| end == b"\n\n") || fresh.windows(3).any(|end| end == b"\n\r\n")
    }

    /// Reads where no body is read; the number of bytes, 0 at the end. If there is nothing unread before them,
    /// `take` sees them and says how many it took.
    pub(super) fn poll_read_head(
        &mut self,
        scratch: &Scratch,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let ahead = self.ahead;
        let most = match ahead {
            Ahead::Body => ANSWER_READ,
            Ahead::Little => HEAD_READ,
        };
        let mut bytes = scratch.room();
        let read = ready!(self.poll_read(cx, &mut (&mut *bytes).limit(most)))?;
        if !self.unread.is_empty() {
            self.unread.extend_from_slice(&bytes);
            return Poll::Ready(Ok(read));
        }
        let taken = if read == 0 { 0 } else { take(&bytes) };
        let rest = bytes.get(taken..).unwrap_or_default();
        if ahead == Ahead::Body && rest.len() > COPIED {
            let mut whole = bytes.split();
            whole.advance(taken);
            self.unread = whole;
        } else if !rest.is_empty() {
            self.unread.extend_from_slice(rest);
        }
        Poll::Ready(Ok(read))
    }

    /// Whether a head has begun to come. Some programs end a body with a line end too many (RFC 9112 §2.2); a few are
    /// none.
    pub(super) fn has_begun_head(&self) -> bool {
        self.unread.len() > 4 || self.unread.iter().any(|b| !matches!(b, b'\r' | b'\n'))
    }

    /// Forgets bytes that were taken.
    pub(super) fn take(&mut self, bytes: usize) {
        self.unread.advance(bytes.min(self.unread.len()));
        if self.unread.is_empty() {
            // An empty rest would hold on to the memory that it is a rest of.
            self.unread = BytesMut::new();
        }
    }

    /// The next part of the body, of what was read.
    pub(super) fn next_part(&mut self) -> Result<Part, BodyError> {
        let part = self.body.decode(&mut self.unread);
        self.take(0);
        part
    }

    /// Reads more of a body; the number of bytes, 0 at the end.
    pub(super) fn poll_read_body(
        &mut self,
        scratch: &Scratch,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut bytes = scratch.room();
        let read = ready!(self.poll_read(cx, &mut *bytes))?;
        let read_bytes = bytes.split();
        if self.unread.is_empty() {
            self.unread = read_bytes;
        } else {
            self.unread.extend_from_slice(&read_bytes);
        }
        Poll::Ready(Ok(read))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// A socket on which these pieces come one by one, and nothing goes out.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(piece) = self.0.pop_front() {
                buf.put_slice(&piece);
            }
            Poll::Ready(Ok(()))
        }
    }

    impl Io for Pieces {}

    impl AsyncWrite for Pieces {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// The lengths of the heads on a connection, and what is unread when it ends.
    async fn heads(pieces: VecDeque<Vec<u8>>, ahead: Ahead) -> (Vec<usize>, usize) {
        let parse = |bytes: &[u8]| {
            let mut fields = [httparse::EMPTY_HEADER; 8];
            match httparse::Request::new(&mut fields).parse(bytes)? {
                httparse::Status::Complete(length) => Ok(Some((length, length))),
                httparse::Status::Partial => Ok::<_, httparse::Error>(None),
            }
        };
        let (scratch, mut wire) = (Scratch::new(1024), Wire::new(Pieces(pieces), BytesMut::new(), ahead));
        let mut heads = Vec::new();
        loop {
            let mut parsed = 0;
            match poll_fn(|cx| wire.poll_head(&scratch, cx, 1024, &mut parsed, parse)).await {
                Ok(head) => heads.push(head),
                Err(_) => return (heads, wire.unread.len()),
            }
        }
    }

    proptest! {
        /// However a line may end, and wherever the network cuts it.
        #[test]
        fn heads_are_found_in_whatever_pieces_they_come(
            requests in prop::collection::vec(
                (prop::sample::select(vec!["", "\r\n", "\n\r\n"]), prop::sample::select(vec!["\r\n", "\n"]),
                 prop::sample::select(vec!["\r\n", "\n"]), prop::sample::select(vec!["\r\n", "\n"])),
                1..4),
            step in 1_usize..40,
            ahead in prop::sample::select(vec![Ahead::Body, Ahead::Little]),
        ) {
            let requests: Vec<_> = requests
                .iter()
                .map(|(before, one, two, end)| format!("{before}GET / HTTP/1.1{one}host: a{two}{end}").into_bytes())
                .collect();
            let bytes = requests.concat();
            let pieces = bytes.chunks(step).map(<[u8]>::to_vec).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (heads, rest) = runtime.block_on(heads(pieces, ahead));
            prop_assert_eq!(heads, requests.iter().map(Vec::len).collect::<Vec<_>>());
            prop_assert_eq!(rest, 0);
        }
    }
}
