//! A connection to a server: one exchange at a time, driven by whoever waits for its answer.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::Write;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::io::ReadBuf;
use tokio::task::AbortHandle;
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use super::body::{BodyError, Decoder, Upgraded, frame};
use super::chunked::Part;
use super::head::{Limits, content_length};
use super::output::{BadBody, Framing, Output};
use super::response::{Head, Malformed, parse};
use super::wire::{Ahead, Io, ReadError, Scratch, Wire};
use crate::alarm::Alarm;
use crate::message::{Name, Request, Response};

/// Bytes that most heads of requests have room in.
const HEAD_CAPACITY: usize = 512;

/// Interim answers (1xx) that are read before the one that counts.
const MAX_INTERIM: usize = 16;

/// A connection to a server.
pub struct Client<IO> {
    shared: Rc<Shared<IO>>,
}

struct Shared<IO> {
    wire: RefCell<Wire<IO>>,
    /// Of the answer that is awaited or read.
    limits: Cell<Limits>,
    scratch: Rc<Scratch>,
    /// Both sides know where each message ends, and neither wants to close.
    keep_alive: Cell<bool>,
    /// Sends what is left of a request that was answered early.
    upload: RefCell<Option<AbortHandle>>,
    /// That came to nothing: the request's own body failed.
    upload_failed: Cell<bool>,
    /// Reads the answer meanwhile.
    reader: Cell<Option<Waker>>,
}

/// An exchange that came to nothing.
pub struct Failed<E> {
    /// Why.
    pub error: Error<E>,
    /// What was read of the body, if nothing was sent at all.
    pub unsent: Option<Vec<Frame<Bytes>>>,
}

/// Why an exchange came to nothing.
pub enum Error<E> {
    /// The server closed the connection, or it failed.
    Closed,
    /// Nothing came from the server's machine for as long as the socket allows.
    Lost,
    /// The answer is none.
    Malformed(Malformed),
    /// The request's own body failed.
    Body(E),
    /// The request's own body is not as long as its head says.
    BodyLength,
}

impl<IO: Io> Client<IO> {
    /// A connection on which nothing was said yet.
    pub fn new(io: IO, scratch: Rc<Scratch>) -> Self {
        let shared = Shared {
            wire: RefCell::new(Wire::new(io, BytesMut::new(), Ahead::Body)),
            limits: Cell::new(Limits { bytes: 0, fields: 0 }),
            scratch,
            keep_alive: Cell::new(true),
            upload: RefCell::default(),
            upload_failed: Cell::new(false),
            reader: Cell::default(),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Whether the last exchange is over and left the connection as it was.
    pub fn is_free(&self) -> bool {
        let wire = self.shared.wire.borrow();
        self.shared.keep_alive.get() && wire.body.is_end() && wire.unread.is_empty()
    }

    /// Whether it is free, and the other side has not closed it. Nor said anything: nobody asked.
    pub fn is_open(&self) -> bool {
        // Without a budget tokio says that there is nothing to read, whatever there is.
        if !has_budget_remaining() {
            return false;
        }
        let (mut cx, mut byte) = (Context::from_waker(Waker::noop()), [0]);
        let mut read = || {
            let mut wire = self.shared.wire.borrow_mut();
            wire.poll_io(|io| io.poll_read(&mut cx, &mut ReadBuf::new(&mut byte)))
        };
        self.is_free() && read().is_pending()
    }

    /// Calls `with` with the socket, if the connection still has one.
    pub fn with_io(&self, with: impl FnOnce(&IO)) {
        self.shared.wire.borrow().io.as_ref().map(with);
    }

    /// Sends a request and waits for the head of its answer, which is within `limits`. A body that is not out by then
    /// is sent on while the answer is read. One that waits for a 100 is sent when that comes, or after `continue_limit`.
    ///
    /// # Errors
    /// When there is no answer. The request is as it was, but for what was read of its body.
    pub async fn exchange<B>(
        &self,
        request: &mut Request<B>,
        limits: Limits,
        continue_limit: Duration,
    ) -> Result<Response<Answer<IO>>, Failed<B::Error>>
    where
        B: Body<Data = Bytes> + Default + Unpin + 'static,
    {
        let shared = &self.shared;
        shared.limits.set(limits);
        let Some((mut output, expects_continue)) = write_head(request) else {
            return Err(Failed { error: Error::BodyLength, unsent: None });
        };
        let (mut is_sent, mut parsed, mut interim) = (false, 0, Interim::default());
        let mut hold = expects_continue.then(|| Alarm::new(Instant::now() + continue_limit));
        let head = poll_fn(|cx| {
            if !is_sent {
                let held = hold.is_some();
                is_sent = shared.poll_send(&mut output, Pin::new(request.body_mut()), held, cx)?.is_ready();
            }
            let head = shared.poll_answer(request.method(), &mut parsed, &mut interim, cx);
            let is_due = hold.as_mut().is_some_and(|hold| interim.continued || hold.poll(cx).is_ready());
            if head.is_pending() && is_due {
                hold = None;
                cx.waker().wake_by_ref(); // to send it
            }
            // Nobody has asked anything yet: what is said now is not for this request.
            match head {
                Poll::Ready(Ok(_)) if output.is_untouched() => {
                    Poll::Ready(Err(Error::Malformed(Malformed::Unasked)))
                }
                head => head,
            }
        });
        match head.await {
            Ok(head) if !is_sent && head.parts.status == StatusCode::SWITCHING_PROTOCOLS => {
                shared.keep_alive.set(false);
                Err(Failed { error: Error::Malformed(Malformed::Switch), unsent: None })
            }
            Ok(head) => {
                shared.begin_answer(&head);
                if !is_sent && hold.is_some() {
                    // The answer came instead of a 100: nobody wants the body.
                    shared.keep_alive.set(false);
                } else if !is_sent {
                    shared.send_on(output, std::mem::take(request.body_mut()));
                }
                let answer = Answer { shared: shared.clone() };
                Ok(Response::from_parts(head.parts, answer))
            }
            Err(error) => {
                shared.keep_alive.set(false);
                let unsent = output.is_untouched().then(|| output.take_back());
                Err(Failed { error, unsent })
            }
        }
    }

    /// The connection itself, after an answer that switched protocols.
    pub fn upgraded(&self) -> Option<Upgraded> {
        let mut wire = self.shared.wire.borrow_mut();
        let io = Box::pin(wire.io.take()?);
        Some(Upgraded { unread: std::mem::take(&mut wire.unread), io })
    }
}

/// The interim answers to a request.
#[derive(Default)]
struct Interim {
    count: usize,
    /// One was the 100 that its body waits for.
    continued: bool,
}

impl<IO: Io> Shared<IO> {
    fn poll_send<B: Body<Data = Bytes>>(
        &self,
        output: &mut Output,
        mut body: Pin<&mut B>,
        held: bool,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Error<B::Error>> {
        loop {
            if !held {
                output.fill(body.as_mut(), cx).map_err(|bad| match bad {
                    BadBody::Error(error) => Error::Body(error),
                    BadBody::Length => Error::BodyLength,
                })?;
            }
            if output.is_done() {
                return Ok(Poll::Ready(()));
            }
            if output.is_written() {
                return Ok(Poll::Pending); // the user has to send more
            }
            match output.poll_write(&mut self.wire.borrow_mut(), cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) if output.is_untouched() => return Err(Error::Closed),
                Poll::Ready(Err(_)) => {
                    // It does not want the rest, but may have said why before it closed.
                    self.keep_alive.set(false);
                    return Ok(Poll::Ready(()));
                }
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
    }

    fn poll_answer<E>(
        &self,
        method: &Method,
        parsed: &mut usize,
        interim: &mut Interim,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error<E>>> {
        let limits = self.limits.get();
        let parse = |bytes: &[u8]| Ok(parse(bytes, method, limits)?.map(|head| (head.bytes, head)));
        let mut wire = self.wire.borrow_mut();
        loop {
            let head = match ready!(wire.poll_head(&self.scratch, cx, limits.bytes, parsed, parse)) {
                Ok(head) => head,
                Err(ReadError::Ended) => return Poll::Ready(Err(Error::Closed)),
                Err(ReadError::Lost) => return Poll::Ready(Err(Error::Lost)),
                Err(ReadError::Parse(malformed)) => return Poll::Ready(Err(Error::Malformed(malformed))),
            };
            let status = head.parts.status;
            if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Ok(head));
            }
            *parsed = 0;
            interim.count += 1;
            if interim.count > MAX_INTERIM {
                return Poll::Ready(Err(Error::Malformed(Malformed::Interim)));
            }
            if status == StatusCode::CONTINUE && !std::mem::replace(&mut interim.continued, true) {
                // The body that waits for it goes on first: an answer that came with it may be made of that.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn begin_answer(&self, head: &Head) {
        self.wire.borrow_mut().body = Decoder::new(head.body, self.limits.get());
        if !head.keep_alive || head.parts.status == StatusCode::SWITCHING_PROTOCOLS {
            self.keep_alive.set(false);
        }
    }

    /// Goes on with a request that was answered before it was out. The connection cannot be used again.
    fn send_on<B: Body<Data = Bytes> + Unpin + 'static>(self: &Rc<Self>, mut output: Output, mut body: B) {
        self.keep_alive.set(false);
        let shared = self.clone();
        let upload = tokio::task::spawn_local(async move {
            let sent = poll_fn(|cx| match shared.poll_send(&mut output, Pin::new(&mut body), false, cx) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(())) => Poll::Ready(true),
                Err(_) => Poll::Ready(false),
            });
            if !sent.await {
                // The server must not take for whole what is not.
                shared.upload_failed.set(true);
                shared.wire.borrow_mut().io = None;
                if let Some(reader) = shared.reader.take() {
                    reader.wake();
                }
            }
        });
        *self.upload.borrow_mut() = Some(upload.abort_handle());
    }

    fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Result<Part, BodyError>> {
        let mut wire = self.wire.borrow_mut();
        loop {
            let part = wire.next_part()?;
            if part != Part::Incomplete {
                return Poll::Ready(Ok(part));
            }
            match wire.poll_read_body(&self.scratch, cx) {
                Poll::Ready(Ok(0)) => wire.body.end_of_input()?,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) if self.upload_failed.get() => {
                    return Poll::Ready(Err(BodyError::Request));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    if self.upload.borrow().is_some() {
                        self.reader.set(Some(cx.waker().clone()));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<IO> Drop for Client<IO> {
    fn drop(&mut self) {
        if let Some(upload) = self.shared.upload.borrow_mut().take() {
            upload.abort();
        }
    }
}

/// The body of an answer. It is read from the connection when it is asked for.
pub struct Answer<IO> {
    shared: Rc<Shared<IO>>,
}

impl<IO: Io> Body for Answer<IO> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.shared.poll_part(cx).map(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.shared.wire.borrow().body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.wire.borrow().body.size_hint()
    }
}

/// Begins a message with the head of a request; its target is in origin form. Also whether its body waits for a 100.
/// `None` if the body is not as long as it says: what the server takes for the rest of it would be the next request.
fn write_head<B: Body>(request: &Request<B>) -> Option<(Output, bool)> {
    let mut head = Vec::with_capacity(HEAD_CAPACITY);
    head.extend_from_slice(request.method().as_str().as_bytes());
    head.push(b' ');
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let (mut said, mut expects) = (None, false);
    for field in request.headers().iter() {
        match field.name() {
            Some(Name::TransferEncoding) => continue,
            Some(Name::ContentLength) => said = said.or_else(|| content_length(field.value())),
            Some(Name::Expect) => expects |= field.value().eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        head.extend_from_slice(field.line());
    }
    let framing = match (said, request.body().size_hint().exact()) {
        (Some(said), Some(length)) if said != length => return None,
        (Some(length), _) => Framing::Known(length),
        (None, Some(0)) if !expects_length(request.method()) => Framing::NoBody,
        (None, Some(length)) => {
            let _ = write!(head, "content-length: {length}\r\n"); // writing to a Vec does not fail
            Framing::Known(length)
        }
        (None, None) => {
            head.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    head.extend_from_slice(b"\r\n");
    let expects_continue = expects && !request.body().is_end_stream();
    Some((Output::new(head, framing, true), expects_continue))
}

/// Methods whose requests say that they have no body, if they have none (RFC 9110 §8.6).
fn expects_length(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http::{HeaderMap, header};

    use super::*;

    const LIMITS: Limits = Limits { bytes: 1024, fields: 8 };

    impl Io for tokio::io::DuplexStream {}

    /// A body of these frames.
    #[derive(Default)]
    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    #[tokio::test]
    async fn what_was_taken_of_a_body_and_not_sent_is_given_back() {
        let trailers: HeaderMap = [(header::ETAG, "7".parse().unwrap())].into_iter().collect();
        for (data, left) in [("data", 1), ("", 0)] {
            let frames = [Frame::data(Bytes::from(data)), Frame::trailers(trailers.clone())];
            let frames =
                frames.into_iter().filter(|frame| frame.data_ref().is_none_or(|data| !data.is_empty()));
            let request = http::Request::post("/").body(Frames(frames.collect())).unwrap();
            let mut request = Request::from(request);
            let (io, server) = tokio::io::duplex(1024);
            drop(server); // nothing can be written
            let client = Client::new(io, Rc::new(Scratch::new(1024)));
            let Err(failed) = client.exchange(&mut request, LIMITS, Duration::ZERO).await else {
                panic!("answered")
            };
            let mut back = failed.unsent.expect("nothing was sent");
            assert_eq!((back.len(), request.body().0.len()), (1, left));
            // A part of the body at a time: what follows the data is still in the body.
            let frame = back.pop().unwrap();
            match frame.into_data() {
                Ok(bytes) => assert_eq!(bytes, data),
                Err(frame) => assert_eq!(frame.into_trailers().unwrap(), trailers),
            }
        }
    }
}
