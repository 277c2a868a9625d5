//! A user's connection, shared between the task that serves it and whoever reads the body of its request.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use http_body::SizeHint;
use tokio::sync::oneshot;

use super::body::{BodyError, Decoder, OnUpgrade, Source, Upgraded};
use super::chunked::Part;
use super::wire::{Ahead, Io, ReadError, Scratch, Wire};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A user's connection.
pub(super) struct Transport<IO> {
    scratch: Rc<Scratch>,
    state: RefCell<State<IO>>,
    /// The gateway drains: the next answer is the last, and whoever asks nothing has so long to do so.
    pub(super) closing: Cell<Option<Duration>>,
    /// The answer that is under way is [`Unwaited`](super::Unwaited).
    pub(super) unwaited: Cell<bool>,
}

pub(super) struct State<IO> {
    pub(super) wire: Wire<IO>,
    /// What is left to be sent of a 100 that the user waits for before it sends its body; none once it is out, or if
    /// nobody waits.
    continue_left: Option<&'static [u8]>,
    /// The task that serves the connection; it wants to know when the body has ended.
    server: Option<Waker>,
    upgrade: Option<oneshot::Sender<Upgraded>>,
}

impl<IO: Io> Transport<IO> {
    pub(super) fn new(io: IO, scratch: Rc<Scratch>) -> Self {
        let state = State {
            wire: Wire::new(io, BytesMut::new(), Ahead::Little),
            continue_left: None,
            server: None,
            upgrade: None,
        };
        Self { scratch, state: RefCell::new(state), closing: Cell::new(None), unwaited: Cell::new(false) }
    }

    pub(super) fn state(&self) -> RefMut<'_, State<IO>> {
        self.state.borrow_mut()
    }

    /// As [`Wire::poll_head`].
    pub(super) fn poll_head<H, E>(
        &self,
        cx: &mut Context<'_>,
        limit: usize,
        parsed: &mut usize,
        parse: impl FnMut(&[u8]) -> Result<Option<(usize, H)>, E>,
    ) -> Poll<Result<H, ReadError<E>>> {
        self.state().wire.poll_head(&self.scratch, cx, limit, parsed, parse)
    }

    /// Whether the user can send another request after this one's answer: nobody would know where it begins
    /// before the body of this one was read. What came of a body that nobody wants any more is dropped.
    pub(super) fn may_stay(self: &Rc<Self>) -> bool {
        // The connection and its task hold it; a third is the body.
        let body_is_held = Rc::strong_count(self) > 2;
        let mut state = self.state();
        if !body_is_held {
            while let Ok(Part::Data(_) | Part::Trailers(_)) = state.wire.next_part() {}
        }
        state.wire.body.is_end() && self.closing.get().is_none()
    }

    /// Whether nothing is known that the user sent and nobody read.
    pub(super) fn is_all_read(&self) -> bool {
        let state = self.state();
        state.wire.body.is_end() && state.wire.unread.is_empty()
    }

    /// Resolves when the user has left, as far as that can be seen: a user that has sent more than it was
    /// answered is not looked at. Also when the body of its request was not read, which is for its reader to see.
    pub(super) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.wire.body.is_end() {
            if !state.server.as_ref().is_some_and(|server| server.will_wake(cx.waker())) {
                state.server = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        // The next request has to wait; a line end too many is none.
        while !state.wire.has_begun_head() {
            if let Ok(0) | Err(_) = ready!(state.wire.poll_read_head(&self.scratch, cx, |_| 0)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// What was read and is nobody's.
    pub(super) fn take_unread(&self) -> BytesMut {
        std::mem::take(&mut self.state().wire.unread)
    }

    /// Ends the connection for everybody who shares it.
    pub(super) fn take(&self) -> Option<IO> {
        self.state().wire.io.take()
    }

    /// Hands the connection to whoever waits for it to switch protocols.
    pub(super) fn switch(&self) {
        let mut state = self.state();
        if let (Some(mut io), Some(upgrade)) = (state.wire.io.take(), state.upgrade.take()) {
            io.lift_write_limit(); // a tunnel has a limit of its own
            let unread = std::mem::take(&mut state.wire.unread);
            let _ = upgrade.send(Upgraded { unread, io: Box::pin(io) }); // or nobody wants it, and it closes
        }
    }
}

impl<IO: Io> State<IO> {
    /// A user that waits for a 100 gets it when somebody wants its body, and not before.
    pub(super) fn begin_body(&mut self, body: Decoder, expects_continue: bool) {
        self.wire.body = body;
        self.continue_left = (expects_continue && self.wire.unread.is_empty()).then_some(CONTINUE);
        self.upgrade = None;
    }

    /// There is an answer: a 100 that was begun is written to its end, and one that was not never is.
    pub(super) fn poll_end_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.continue_left.is_some_and(|left| left.len() == CONTINUE.len()) {
            self.continue_left = None;
        }
        self.poll_continue(cx)
    }

    /// Touches the connection only if there is a 100 to send: what else there is to write is an answer, and not for whoever
    /// reads the body to wait for.
    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self.continue_left {
            if left.is_empty() {
                ready!(self.wire.poll_io(|io| io.poll_flush(cx)))?; // TLS may hold it back
                self.continue_left = None;
                break;
            }
            let written = ready!(self.wire.poll_io(|io| io.poll_write(cx, left)))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.continue_left = Some(left.get(written..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_part(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> Poll<Result<Part, BodyError>> {
        loop {
            let part = self.wire.next_part()?;
            if part != Part::Incomplete {
                return Poll::Ready(Ok(part));
            }
            ready!(self.poll_continue(cx))?;
            if ready!(self.wire.poll_read_body(scratch, cx))? == 0 {
                self.wire.body.end_of_input()?;
            }
        }
    }
}

impl<IO: Io> Source for Transport<IO> {
    fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        let mut state = self.state();
        let part = state.poll_part(cx, &self.scratch);
        // From here on it is for the server's task to see the user leave; or to see that it has.
        if let Poll::Ready(part) = &part
            && (part.is_err() || state.wire.body.is_end())
            && let Some(server) = state.server.take()
        {
            server.wake();
        }
        part
    }

    fn is_end(&self) -> bool {
        self.state().wire.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.state().wire.body.size_hint()
    }

    fn upgrade(&self) -> OnUpgrade {
        let (sender, receiver) = oneshot::channel();
        self.state().upgrade = Some(sender);
        receiver
    }
}
