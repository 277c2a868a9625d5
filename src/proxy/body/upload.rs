//! A request's body on its way to an HTTP/2 dataserver.
//!
//! hyper takes the body and does not give it back. A dataserver may refuse a stream whose body was already begun
//! (RFC 9113 §8.7), and such a request is for another one: so the exchange keeps a hand on the body, and for a while
//! what was read of it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::{BoxError, Progress, RequestBody};
use crate::message::{PIECE, Pieces};
use crate::proxy::connect::{SEND_BUFFER, Sending};
use crate::proxy::error::Error;
use crate::proxy::pool::Slot;

/// Bytes of a body that are kept until its dataserver has answered: so many may be sent before it refuses, and so many may be read
/// ahead of that, into h2 and two pieces further. A refusal comes at once or not at all: a body that got further was
/// taken.
const KEPT_BYTES: usize = 64 * 1024 + SEND_BUFFER + 2 * PIECE;

/// A part may hold on to much more memory than its bytes: those after so many are copied.
const KEPT_PARTS: usize = 16;

/// Bytes that a dataserver has room for before it reads any: who takes frames of that size has room for one, and a body that
/// fits in it is not worth a second.
const ROOM: usize = PIECE;

/// The body as hyper reads it.
pub(in crate::proxy) struct Upload {
    shared: Rc<Shared>,
    pieces: Pieces,
    /// The last byte of what was read, once the others were handed on; none while more is known to come.
    ///
    /// hyper hands a piece to h2 when there is room for one byte of it, and after it the end, for which it waits for no
    /// room. h2 then has all of the body and lets nobody take it back: where the dataserver answers and never reads the rest, the
    /// stream would stay open on a connection that many share. Behind a byte of its own the end comes when there was room
    /// for all before it, so that an upload that does not fit is never at its end, and can be reset.
    last_byte: Bytes,
    handed_on: usize,
    /// The stream is in use for as long as its body is.
    slot: Rc<Slot>,
}

/// The same body in the hand of its exchange.
pub(in crate::proxy) struct UploadHandle {
    uploading: Uploading,
    progress: Option<Rc<Progress>>,
}

/// An upload that goes on for as long as somebody wants its answer: hyper would wait for room that nobody may ever make, and hold
/// the stream for as long. It does so also where the answer comes at the moment that its user goes.
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
        self.0.sending.end();
    }
}

struct Shared {
    body: RefCell<Option<RequestBody>>,
    /// What was read so far; none once it is too much or of no more use.
    kept: RefCell<Option<Kept>>,
    failure: Cell<Option<Error>>,
    sending: Rc<Sending>,
}

#[derive(Default)]
struct Kept {
    parts: Vec<Bytes>,
    /// What came after those.
    copied: BytesMut,
    trailers: Option<HeaderMap>,
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
            sending: Rc::default(),
        });
        let upload = Self {
            shared: shared.clone(),
            pieces: Pieces::default(),
            last_byte: Bytes::new(),
            handed_on: 0,
            slot,
        };
        (upload, UploadHandle { uploading: Uploading(shared), progress })
    }

    /// What is left of what was read of `body`.
    fn next_piece(&mut self, body: &RequestBody) -> Option<Bytes> {
        if let Some(piece) = self.pieces.next() {
            return Some(self.hand_on(piece, body));
        }
        Some(std::mem::take(&mut self.last_byte)).filter(|byte| !byte.is_empty())
    }

    fn hand_on(&mut self, mut piece: Bytes, body: &RequestBody) -> Bytes {
        self.handed_on = self.handed_on.saturating_add(piece.len());
        if self.handed_on > KEPT_BYTES {
            self.shared.kept.take();
        }
        let may_be_last = || self.pieces.is_empty() && body.size_hint().exact().is_none_or(|rest| rest == 0);
        if self.handed_on > ROOM && piece.len() > 1 && may_be_last() {
            self.last_byte = piece.split_off(piece.len() - 1);
        }
        piece
    }
}

impl UploadHandle {
    /// How the upload goes; `None` if there was nothing to upload.
    pub(in crate::proxy) fn progress(&self) -> Option<Rc<Progress>> {
        self.progress.clone()
    }

    /// The whole body, for another dataserver; `None` if too much of it is gone.
    pub(in crate::proxy) fn take_back(&self) -> Option<RequestBody> {
        let Shared { kept, body, .. } = &*self.uploading.0;
        let kept = kept.take()?;
        let mut body = body.take()?;
        body.put_back(kept.into_frames());
        Some(body)
    }

    /// What was the user's fault, if that ended the upload.
    pub(in crate::proxy) fn failure(&self) -> Option<Error> {
        self.uploading.0.failure.take()
    }

    /// The dataserver has answered: the request is its own now, for as long as what is returned is kept.
    pub(in crate::proxy) fn answered(self) -> Uploading {
        self.uploading.0.kept.take();
        self.uploading
    }
}

impl Kept {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if data.is_empty() => {}
            Some(data) if self.parts.len() < KEPT_PARTS => self.parts.push(data.clone()),
            Some(data) => self.copied.extend_from_slice(data),
            // They have a limit of their own, which was kept when they were read.
            None => self.trailers = frame.trailers_ref().cloned(),
        }
    }

    fn into_frames(self) -> Vec<Frame<Bytes>> {
        let copied = Some(self.copied.freeze()).filter(|copied| !copied.is_empty());
        let data = self.parts.into_iter().chain(copied).map(Frame::data);
        data.chain(self.trailers.map(Frame::trailers)).collect()
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let shared = this.shared.clone();
        let mut body = shared.body.borrow_mut();
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err(TakenBack.into()))) };
        if let Some(piece) = this.next_piece(body) {
            body.moves();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(kept) = &mut *shared.kept.borrow_mut() {
                    kept.keep(frame);
                }
            }
            Some(Err(error)) => {
                shared.kept.take();
                shared.failure.set(Some(Error::of_body(error)));
            }
            None => {}
        }
        Poll::Ready(frame.map(|frame| {
            Ok(match this.pieces.first_of(frame?).into_data() {
                Ok(piece) => Frame::data(this.hand_on(piece, body)),
                Err(trailers) => trailers,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
            && self.last_byte.is_empty()
            && self.shared.body.borrow().as_ref().is_none_or(RequestBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks this once, when it begins the stream. If the body does not go out at once, its task is what hyper
        // makes next.
        let sending = (!self.is_end_stream()).then(|| self.shared.sending.clone());
        self.slot.executor().begins(sending);
        self.shared.body.borrow().as_ref().map_or_else(SizeHint::new, RequestBody::size_hint)
    }
}
