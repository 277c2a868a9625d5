//! A request's body on its way to an HTTP/2 dataserver.
//!
//! hyper takes the body and does not give it back. A dataserver may refuse a stream whose body was already begun
//! (RFC 9113 §8.7), and such a request is for another one: so the exchange keeps a hand on the body, and for a while
//! what was read of it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::{BoxError, Progress, RequestBody};
use crate::message::Pieces;
use crate::proxy::connect::Sending;
use crate::proxy::error::Error;
use crate::proxy::pool::Slot;

/// Bytes of a body that are kept until its dataserver has answered. A refusal comes at once or not at all: a body that
/// got further was taken.
const KEPT_BYTES: usize = 64 * 1024;

/// A part may hold on to much more memory than its bytes.
const KEPT_PARTS: usize = 16;

/// The body as hyper reads it.
pub(in crate::proxy) struct Upload {
    shared: Rc<Shared>,
    pieces: Pieces,
    /// The stream is in use for as long as its body is.
    slot: Rc<Slot>,
}

/// The same body in the hand of its exchange.
pub(in crate::proxy) struct UploadHandle {
    shared: Rc<Shared>,
    progress: Option<Rc<Progress>>,
}

/// An upload that may go on behind the head of its answer. It ends with the answer: hyper would wait for room that nobody may
/// ever make, and hold the stream for as long.
pub(in crate::proxy) struct Uploading(Rc<Shared>);

impl Uploading {
    /// Whether the user's own body failed, and with it the stream.
    pub(in crate::proxy) fn has_failed(&self) -> bool {
        self.0.failure.take().is_some()
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        // The stream is reset, unless all of the body went out.
        if let Some(task) = self.0.sending.take() {
            task.abort();
        }
    }
}

struct Shared {
    body: RefCell<Option<RequestBody>>,
    /// What was read so far; none once it is too much or of no more use.
    kept: RefCell<Option<Kept>>,
    failure: Cell<Option<Error>>,
    sending: Sending,
}

#[derive(Default)]
struct Kept {
    parts: Vec<Frame<Bytes>>,
    bytes: usize,
}

/// The body was taken back while it was read.
#[derive(Debug, thiserror::Error)]
#[error("the body was taken back")]
struct TakenBack;

impl Upload {
    pub(in crate::proxy) fn new(mut body: RequestBody, slot: Rc<Slot>) -> (Self, UploadHandle) {
        let progress = body.progress();
        let shared = Rc::new(Shared {
            body: RefCell::new(Some(body)),
            kept: RefCell::new(Some(Kept::default())),
            failure: Cell::new(None),
            sending: Sending::default(),
        });
        (Self { shared: shared.clone(), pieces: Pieces::default(), slot }, UploadHandle { shared, progress })
    }
}

impl UploadHandle {
    /// How the upload goes; `None` if there was nothing to upload.
    pub(in crate::proxy) fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }

    /// The whole body, for another dataserver; `None` if too much of it is gone.
    pub(in crate::proxy) fn take_back(&self) -> Option<RequestBody> {
        let kept = self.shared.kept.take()?;
        let mut body = self.shared.body.take()?;
        body.put_back(kept.parts);
        Some(body)
    }

    /// What was the user's fault, if that ended the upload.
    pub(in crate::proxy) fn failure(&self) -> Option<Error> {
        self.shared.failure.take()
    }

    /// The dataserver has answered: the request is its own now, for as long as what is returned is kept.
    pub(in crate::proxy) fn answered(self) -> Uploading {
        self.shared.kept.take();
        Uploading(self.shared)
    }
}

impl Shared {
    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let Some(some) = kept.as_mut() else { return };
        // Trailers have a limit of their own, which was kept when they were read.
        some.bytes += frame.data_ref().map_or(0, Bytes::len);
        if some.bytes > KEPT_BYTES || some.parts.len() >= KEPT_PARTS {
            *kept = None;
        } else {
            some.parts.extend(frame.data_ref().cloned().map(Frame::data));
            some.parts.extend(frame.trailers_ref().cloned().map(Frame::trailers));
        }
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { shared, pieces, .. } = &mut *self;
        let mut body = shared.body.borrow_mut();
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err(TakenBack.into()))) };
        if let Some(piece) = pieces.next() {
            body.moves();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => shared.keep(frame),
            Some(Err(error)) => {
                shared.kept.take();
                shared.failure.set(Some(Error::of_body(error)));
            }
            None => {}
        }
        Poll::Ready(frame.map(|frame| frame.map(|frame| pieces.first_of(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.shared.body.borrow().as_ref().is_none_or(RequestBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks this once, when it begins the stream. If the body does not go out at once, its task is what hyper
        // makes next.
        let sending = (!self.is_end_stream()).then(|| self.shared.sending.clone());
        self.slot.executor().comes_next(sending);
        self.shared.body.borrow().as_ref().map_or_else(SizeHint::new, RequestBody::size_hint)
    }
}
