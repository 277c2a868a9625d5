//! HTTP/2, as far as hyper leaves it to us: a user that does not read, streams that are begun only to be
//! cancelled, and a connection on which nothing is asked.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming as Hyper;
use pin_project_lite::pin_project;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tower::Service;

use crate::alarm::Alarm;
use crate::http1::Unwaited;
use crate::message::{Pieces, Request, Response, ends_with_head};
use crate::proxy::{Body, Incoming, is_grpc};

/// How long a cancelled stream counts, at most.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);

/// What a user has to keep to. An open connection keeps to other terms from its next stream on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long a connection may be without a stream.
    pub(super) idle: Duration,
    /// How long a user may make no room for what there is to send.
    pub(super) stalled: Duration,
    /// The same of gRPC, whose streams may be still for as long as nothing happens that they tell of.
    pub(super) stalled_grpc: Duration,
    /// How many streams a user may cancel in [`CANCELLED_WITHIN`].
    pub(super) cancelled: usize,
}

/// The streams of one connection.
#[derive(Clone)]
pub(super) struct Streams {
    inner: Rc<Inner>,
}

struct Inner {
    open: Cell<usize>,
    /// Those among them whose answer is [`Unwaited`].
    unwaited: Cell<usize>,
    /// When there was last a stream, or something of one was written.
    last: Rc<Cell<Instant>>,
    /// Streams that the user cancelled before they were answered, and since when they are counted.
    cancelled: Cell<(Instant, usize)>,
    terms: Rc<Cell<Terms>>,
    /// Of whoever waits for the user to have cancelled too many.
    waiting: RefCell<Option<Waker>>,
}

impl Streams {
    pub(super) fn new(terms: Rc<Cell<Terms>>) -> Self {
        let inner = Inner {
            open: Cell::new(0),
            unwaited: Cell::new(0),
            last: Rc::new(Cell::new(Instant::now())),
            cancelled: Cell::new((Instant::now(), 0)),
            terms,
            waiting: RefCell::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Where to note that something of an answer was written: a stream ends for us when hyper has all of it.
    pub(super) fn moved(&self) -> Rc<Cell<Instant>> {
        self.inner.last.clone()
    }

    /// Whether none is open.
    pub(super) fn are_none(&self) -> bool {
        self.inner.open.get() == 0
    }

    /// Whether there is something under way that is to end by itself.
    pub(super) fn are_waited_for(&self) -> bool {
        let open = self.inner.open.get();
        open == 0 || open > self.inner.unwaited.get()
    }

    /// Resolves when there was no stream for so many times as long as there may be none.
    pub(super) async fn idle(&self, times: u32) {
        let limit = || self.inner.terms.get().idle.saturating_mul(times);
        let until = |limit: Duration| {
            let since = if self.inner.open.get() == 0 { self.inner.last.get() } else { Instant::now() };
            since + limit
        };
        let mut known = limit();
        let mut alarm = Alarm::new(until(known));
        // This is polled with each frame: the clock is read only when it rings, or when other terms hold.
        poll_fn(|cx| {
            loop {
                if limit() != known {
                    known = limit();
                    alarm.set(until(known));
                }
                ready!(alarm.poll(cx));
                let until = until(known);
                if until <= Instant::now() {
                    return Poll::Ready(());
                }
                alarm.set(until);
            }
        })
        .await;
    }

    /// Resolves when the user has cancelled too many.
    pub(super) async fn abused(&self) {
        poll_fn(|cx| {
            if self.inner.cancelled.get().1 > self.inner.terms.get().cancelled {
                return Poll::Ready(());
            }
            *self.inner.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// One stream, from its request to the end of its answer.
struct Stream {
    streams: Rc<Inner>,
    /// There is something to send, and it is for the user to make room for it.
    waits_for_user: Cell<bool>,
    /// Grows with each part that the user made room for.
    moved: Cell<u64>,
    /// The head of its answer is there.
    answered: Cell<bool>,
    /// That answer is [`Unwaited`].
    unwaited: Cell<bool>,
    /// How long its user may make no room for what there is to send.
    stalled: Duration,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &*self.streams;
        streams.open.set(streams.open.get().saturating_sub(1));
        if self.unwaited.get() {
            streams.unwaited.set(streams.unwaited.get().saturating_sub(1));
        }
        let now = Instant::now();
        streams.last.set(now);
        if self.answered.get() {
            return;
        }
        let (since, count) = streams.cancelled.get();
        let cancelled = if now - since < CANCELLED_WITHIN { (since, count + 1) } else { (now, 1) };
        streams.cancelled.set(cancelled);
        if cancelled.1 > streams.terms.get().cancelled
            && let Some(waiting) = streams.waiting.borrow_mut().take()
        {
            waiting.wake();
        }
    }
}

/// Makes a tower service one of hyper's. Our services are always ready, so that nothing has to be cloned.
pub(super) struct Adapter<S> {
    service: RefCell<S>,
    streams: Streams,
    executor: LocalExecutor,
}

impl<S> Adapter<S> {
    pub(super) fn new(service: S, streams: Streams, executor: LocalExecutor) -> Self {
        Self { service: RefCell::new(service), streams, executor }
    }
}

impl<S> hyper::service::Service<http::Request<Hyper>> for Adapter<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Answer>;
    type Error = Infallible;
    type Future = AnswerFuture<S::Future>;

    fn call(&self, request: http::Request<Hyper>) -> Self::Future {
        let request = Request::from(request).map(Incoming::http2);
        let streams = self.streams.inner.clone();
        streams.open.set(streams.open.get() + 1);
        let (waits_for_user, moved) = (Cell::new(false), Cell::new(0));
        let (answered, unwaited) = (Cell::new(false), Cell::new(false));
        let terms = streams.terms.get();
        let stalled = if is_grpc(request.headers()) { terms.stalled_grpc } else { terms.stalled };
        let stream = Rc::new(Stream { streams, waits_for_user, moved, answered, unwaited, stalled });
        // hyper makes a task of the stream right after this.
        self.executor.next.set(Some(stream.clone()));
        let to_head = request.method() == Method::HEAD;
        let answer = self.service.borrow_mut().call(request);
        AnswerFuture { answer, to_head, stream: Some(stream) }
    }
}

pin_project! {
    pub(super) struct AnswerFuture<F> {
        #[pin]
        answer: F,
        to_head: bool,
        stream: Option<Rc<Stream>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for AnswerFuture<F> {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(response) = ready!(this.answer.poll(cx));
        let stream = this.stream.take();
        if let Some(stream) = &stream {
            stream.waits_for_user.set(true);
            stream.answered.set(true);
            if response.extensions().get::<Unwaited>().is_some() {
                stream.unwaited.set(true);
                stream.streams.unwaited.set(stream.streams.unwaited.get() + 1);
            }
        }
        let ends_with_head = ends_with_head(*this.to_head, response.status());
        let answer = |body| Answer { body, ends_with_head, pieces: Pieces::default(), stream };
        Poll::Ready(Ok(response.map(answer).into()))
    }
}

/// An answer's body, which is asked for more when the user has room for it.
pub(super) struct Answer {
    body: Body,
    /// Nothing of the body is sent.
    ends_with_head: bool,
    pieces: Pieces,
    stream: Option<Rc<Stream>>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { body, pieces, stream, .. } = &mut *self;
        let frame = match pieces.next() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(|frame| pieces.first_of(frame)))),
        };
        if let Some(stream) = stream {
            stream.waits_for_user.set(frame.is_ready());
            stream.moved.set(stream.moved.get().wrapping_add(1));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ends_with_head || (self.pieces.is_empty() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.pieces.and(self.body.size_hint())
    }
}

/// Runs the tasks of HTTP/2 connections on the worker that they belong to.
#[derive(Clone, Default)]
pub(super) struct LocalExecutor {
    /// The stream whose task comes next.
    next: Rc<Cell<Option<Rc<Stream>>>>,
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        match self.next.take() {
            Some(stream) => {
                let alarm = Alarm::new(Instant::now() + stream.stalled);
                let watched = Watched { task, stream, seen: 0, alarm };
                spawn_local(watched);
            }
            None => {
                spawn_local(task);
            }
        }
    }
}

pin_project! {
    /// The task of a stream, which ends when its user has made no room for too long. hyper then resets the stream.
    struct Watched<F> {
        #[pin]
        task: F,
        stream: Rc<Stream>,
        // What had moved when the alarm was set.
        seen: u64,
        alarm: Alarm,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let moved = this.stream.moved.get();
        if !this.stream.waits_for_user.get() {
            *this.seen = moved.wrapping_sub(1); // what comes next is new
            return Poll::Pending;
        }
        if *this.seen != moved {
            *this.seen = moved;
            this.alarm.set(Instant::now() + this.stream.stalled);
        }
        ready!(this.alarm.poll(cx));
        tracing::debug!("a stream's user makes no room for its answer");
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    fn terms(cancelled: usize) -> Rc<Cell<Terms>> {
        let long = Duration::from_secs(3600);
        Rc::new(Cell::new(Terms { idle: long, stalled: long, stalled_grpc: long, cancelled }))
    }

    /// Begins so many streams and ends them, answered or not.
    fn end(streams: &Streams, count: usize, answered: bool) {
        for _ in 0..count {
            let streams = streams.inner.clone();
            streams.open.set(streams.open.get() + 1);
            drop(Stream {
                streams,
                waits_for_user: Cell::new(false),
                moved: Cell::new(0),
                answered: Cell::new(answered),
                unwaited: Cell::new(false),
                stalled: Duration::ZERO,
            });
        }
    }

    async fn is_abused(streams: &Streams) -> bool {
        timeout(Duration::from_millis(1), streams.abused()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn http_41_cancelled_streams_count_for_ten_seconds() {
        let streams = Streams::new(terms(5));
        for _ in 0..10 {
            end(&streams, 5, false);
            end(&streams, 100, true);
            assert!(!is_abused(&streams).await, "five may be cancelled, and any number answered");
            sleep(CANCELLED_WITHIN).await;
        }
        end(&streams, 5, false);
        sleep(CANCELLED_WITHIN.mul_f32(0.9)).await;
        assert!(!is_abused(&streams).await);
        end(&streams, 1, false);
        assert!(is_abused(&streams).await, "the sixth within ten seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn http_41_whoever_waits_for_abuse_is_woken() {
        let streams = Streams::new(terms(2));
        let local = tokio::task::LocalSet::new();
        let waiting = streams.clone();
        let waits = local.spawn_local(async move { waiting.abused().await });
        let abuses = async {
            sleep(Duration::from_secs(1)).await;
            end(&streams, 3, false);
            timeout(Duration::from_secs(60), waits).await
        };
        assert!(local.run_until(abuses).await.is_ok());
    }
}
