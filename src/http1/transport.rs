//! A connection's socket, and what was read from it and not yet taken.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use http_body::SizeHint;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio_util::io::poll_read_buf;

use super::body::{BodyError, Decoder, OnUpgrade, Source, Upgraded};
use super::chunked::Part;

/// What a connection can be made of.
pub trait Io: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Io for T {}

/// Bytes that are read at once where a head is expected.
const HEAD_READ: usize = 16 * 1024;

/// Bytes that are read at once of a body.
const BODY_READ: usize = 64 * 1024;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The memory that all connections of a thread read into. What is read is taken out at once, so that a
/// connection that waits needs none of its own.
pub struct Scratch {
    head: RefCell<Box<[u8]>>,
    body: RefCell<BytesMut>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { head: RefCell::new(vec![0; HEAD_READ].into_boxed_slice()), body: RefCell::default() }
    }
}

/// A connection, shared between the task that serves it and whoever reads the body of its request.
pub(super) struct Transport<IO> {
    scratch: Rc<Scratch>,
    state: RefCell<State<IO>>,
    /// The gateway drains: the answer under way is the last.
    pub(super) closing: Cell<bool>,
}

pub(super) struct State<IO> {
    /// None once the connection has ended or become something else.
    pub(super) io: Option<IO>,
    pub(super) unread: BytesMut,
    /// Of the request that was read last.
    pub(super) body: Decoder,
    /// What is left to be sent of a 100 that the user waits for before it sends its body.
    pub(super) continue_left: &'static [u8],
    /// The task that serves the connection; it wants to know when the body has ended.
    server: Option<Waker>,
    upgrade: Option<oneshot::Sender<Upgraded>>,
}

impl<IO: Io> Transport<IO> {
    pub(super) fn new(io: IO, read: BytesMut, scratch: Rc<Scratch>) -> Self {
        let state = State {
            io: Some(io),
            unread: read,
            body: Decoder::Known(0),
            continue_left: &[],
            server: None,
            upgrade: None,
        };
        Self { scratch, state: RefCell::new(state), closing: Cell::new(false) }
    }

    pub(super) fn state(&self) -> RefMut<'_, State<IO>> {
        self.state.borrow_mut()
    }

    /// Reads where no body is read; the number of bytes, 0 at the end. If there is nothing unread before them,
    /// `take` sees them and says how many it took.
    pub(super) fn poll_read_with(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        let mut scratch = self.scratch.head.borrow_mut();
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(state.poll_io(|io| io.poll_read(cx, &mut buf)))?;
        let bytes = buf.filled();
        let taken = if state.unread.is_empty() && !bytes.is_empty() { take(bytes) } else { 0 };
        state.unread.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Poll::Ready(Ok(bytes.len()))
    }

    /// Whether the user can send another request after this one's answer: nobody would know where it begins
    /// before the body of this one was read. What came of a body that nobody wants any more is dropped.
    pub(super) fn may_stay(self: &Rc<Self>) -> bool {
        // The connection and its task hold it; a third is the body.
        let body_is_held = Rc::strong_count(self) > 2;
        let mut state = self.state();
        if !body_is_held {
            while let Ok(Part::Data(_) | Part::Trailers(_)) = state.next_part() {}
        }
        state.body.is_end() && !self.closing.get()
    }

    /// Whether nothing is known that the user sent and nobody read.
    pub(super) fn is_all_read(&self) -> bool {
        let state = self.state();
        state.body.is_end() && state.unread.is_empty()
    }

    /// Resolves when the user has left, as far as that can be seen: a user that has sent more than it was
    /// answered is not looked at. Also when the body of its request was not read, which is for its reader to see.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.state();
            if !state.body.is_end() {
                if !state.server.as_ref().is_some_and(|server| server.will_wake(cx.waker())) {
                    state.server = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            if !state.unread.is_empty() {
                return Poll::Pending;
            }
        }
        match ready!(self.poll_read_with(cx, |_| 0)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending, // the next request, which has to wait
        }
    }

    /// Ends the connection for everybody who shares it.
    pub(super) fn take(&self) -> Option<IO> {
        self.state().io.take()
    }

    /// Hands the connection to whoever waits for it to switch protocols.
    pub(super) fn switch(&self) {
        let mut state = self.state();
        if let (Some(io), Some(upgrade)) = (state.io.take(), state.upgrade.take()) {
            let unread = std::mem::take(&mut state.unread);
            let _ = upgrade.send(Upgraded { unread, io: Box::pin(io) }); // or nobody wants it, and it closes
        }
    }
}

impl<IO: Io> State<IO> {
    pub(super) fn poll_io<T>(
        &mut self,
        poll: impl FnOnce(Pin<&mut IO>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut self.io {
            Some(io) => poll(Pin::new(io)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// A user that waits for a 100 gets it when somebody wants its body, and not before.
    pub(super) fn begin_body(&mut self, body: Decoder, expects_continue: bool) {
        self.body = body;
        self.continue_left = if expects_continue && self.unread.is_empty() { CONTINUE } else { &[] };
        self.upgrade = None;
    }

    /// Whether a 100 was begun and is not out: an answer must wait for its rest.
    pub(super) fn is_inside_continue(&self) -> bool {
        !self.continue_left.is_empty() && self.continue_left.len() < CONTINUE.len()
    }

    pub(super) fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.continue_left.is_empty() {
            let left = self.continue_left;
            let written = ready!(self.poll_io(|io| io.poll_write(cx, left)))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.continue_left = left.get(written..).unwrap_or_default();
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets bytes that were taken.
    pub(super) fn take(&mut self, bytes: usize) {
        self.unread.advance(bytes.min(self.unread.len()));
        if self.unread.is_empty() {
            // An empty rest would hold on to the memory that it is a rest of.
            self.unread = BytesMut::new();
        }
    }

    /// The next part of the body of what was read.
    fn next_part(&mut self) -> Result<Part, BodyError> {
        let part = self.body.decode(&mut self.unread);
        self.take(0);
        part
    }

    fn poll_part(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<Result<Part, BodyError>> {
        loop {
            let part = self.next_part()?;
            if part != Part::Incomplete {
                return Poll::Ready(Ok(part));
            }
            ready!(self.poll_continue(cx))?;
            if ready!(self.poll_read_body(cx, scratch))? == 0 {
                self.body = Decoder::Failed;
                return Poll::Ready(Err(BodyError::Incomplete));
            }
        }
    }

    fn poll_read_body(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<io::Result<usize>> {
        let mut bytes = scratch.body.borrow_mut();
        if bytes.capacity() < BODY_READ / 2 {
            bytes.reserve(BODY_READ); // the same memory again, once nobody holds a part of it
        }
        let read = ready!(self.poll_io(|io| poll_read_buf(io, cx, &mut *bytes)))?;
        let read_bytes = bytes.split();
        if self.unread.is_empty() {
            self.unread = read_bytes;
        } else {
            self.unread.extend_from_slice(&read_bytes);
        }
        Poll::Ready(Ok(read))
    }
}

impl<IO: Io> Source for Transport<IO> {
    fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        let mut state = self.state();
        let part = state.poll_part(cx, &self.scratch);
        // From here on it is for the server's task to see the user leave.
        if part.is_ready()
            && state.body.is_end()
            && let Some(server) = state.server.take()
        {
            server.wake();
        }
        part
    }

    fn is_end(&self) -> bool {
        self.state().body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.state().body.size_hint()
    }

    fn upgrade(&self) -> OnUpgrade {
        let (sender, receiver) = oneshot::channel();
        self.state().upgrade = Some(sender);
        receiver
    }
}
