//! The body of a user's request.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;

use super::idle::Idle;
use super::stream::Stream;
use super::{BoxError, Incoming};
use crate::http1;
use crate::proxy::access_log::Entry;

/// The body of a user's request.
pub(in crate::proxy) struct RequestBody {
    /// None for a request that is sent again, which never has a body.
    stream: Option<Stream>,
    /// What was read already and is to be sent once more, last part first.
    again: Vec<Frame<Bytes>>,
    idle: Idle,
    progress: Option<Rc<Progress>>,
    /// Where to tell what comes of it, if anybody wants to know.
    entry: Option<Rc<Entry>>,
}

/// How an upload goes, for whoever waits for its answer meanwhile.
pub(in crate::proxy) struct Progress {
    /// When the dataserver last took a part of it.
    last: Cell<Instant>,
    /// Whether the dataserver has taken all that there is, and waits for the user.
    waits_for_user: Cell<bool>,
}

impl Progress {
    /// How much of `limit` the dataserver has left to answer in; `None` if its time is over. While the user
    /// is waited for it has all of it: a body that does not move has a limit of its own.
    pub(in crate::proxy) fn time_left(&self, limit: Duration) -> Option<Duration> {
        if self.waits_for_user.get() {
            return Some(limit);
        }
        let idle = Instant::now().saturating_duration_since(self.last.get());
        limit.checked_sub(idle).filter(|left| !left.is_zero())
    }
}

impl RequestBody {
    pub(in crate::proxy) fn new(mut incoming: Incoming, idle: Duration) -> Self {
        let entry = incoming.entry.take();
        Self { stream: Some(incoming.into()), idle: Idle::new(idle), entry, ..Self::default() }
    }

    /// Where to tell what becomes of the request, if anybody wants to know.
    pub(in crate::proxy) fn entry(&self) -> Option<Rc<Entry>> {
        self.entry.clone()
    }

    /// From now on it may be still for as long.
    pub(in crate::proxy) fn set_idle(&mut self, limit: Duration) {
        self.idle.set_limit(limit);
    }

    /// Puts back what was read of it.
    pub(in crate::proxy) fn put_back(&mut self, read: Vec<Frame<Bytes>>) {
        self.again.extend(read.into_iter().rev());
    }

    /// The dataserver has taken a part of it.
    pub(super) fn moves(&self) {
        if let Some(progress) = &self.progress {
            progress.last.set(Instant::now());
            progress.waits_for_user.set(false);
        }
    }

    /// The user's connection itself, once it has switched protocols; `None` where it cannot.
    pub(in crate::proxy) fn on_upgrade(&self) -> Option<http1::OnUpgrade> {
        self.stream.as_ref()?.on_upgrade()
    }

    /// Where to see how the upload goes; `None` if there is no body to wait for.
    pub(in crate::proxy) fn progress(&mut self) -> Option<Rc<Progress>> {
        if self.is_end_stream() {
            return None;
        }
        let new = || Rc::new(Progress { last: Cell::new(Instant::now()), waits_for_user: Cell::new(false) });
        Some(self.progress.get_or_insert_with(new).clone())
    }
}

/// No body.
impl Default for RequestBody {
    fn default() -> Self {
        Self { stream: None, again: Vec::new(), idle: Idle::new(Duration::ZERO), progress: None, entry: None }
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(frame) = this.again.pop() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        match stream.poll_frame(cx) {
            Poll::Ready(frame) => {
                this.idle.moved();
                if let (Some(entry), Some(Ok(frame))) = (&this.entry, &frame) {
                    entry.add_in(frame.data_ref().map_or(0, Bytes::len));
                }
                this.moves();
                Poll::Ready(frame)
            }
            Poll::Pending => {
                if let Some(progress) = &this.progress {
                    progress.waits_for_user.set(true);
                }
                Poll::Ready(Some(Err(ready!(this.idle.poll_stalled(cx)).into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.again.is_empty() && self.stream.as_ref().is_none_or(Stream::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.stream.as_ref().map_or(SizeHint::with_exact(0), Stream::size_hint);
        if self.again.is_empty() {
            return hint;
        }
        // Of a body of known length nobody expects trailers: with them it is one in chunks, as it was before.
        if self.again.iter().any(Frame::is_trailers) {
            return SizeHint::new();
        }
        let again: u64 = self.again.iter().filter_map(Frame::data_ref).map(|bytes| bytes.len() as u64).sum();
        hint.exact().map_or_else(SizeHint::new, |rest| SizeHint::with_exact(rest.saturating_add(again)))
    }
}
