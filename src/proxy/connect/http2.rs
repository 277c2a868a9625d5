//! A connection for many requests at once: HTTP/2 in the clear, with prior knowledge (RFC 9113 §3.3).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::client::conn::http2::{Builder, Connection};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, spawn_local};

use super::dial;
use crate::addr::Addr;
use crate::proxy::body::Upload;
use crate::proxy::pool::{Http2Connection, Upstream};
use crate::proxy::{Settings, Worker};
use crate::registry::Failure;

/// Bytes of one answer that may wait for a user who reads slowly. This is what bounds a connection: the answers of all its
/// streams are 32 MiB.
const STREAM_WINDOW: u32 = 256 * 1024;

/// As large as can be, so that no user can hold up another's answer. For that the windows of all streams would do; but h2
/// counts what it costs to hold a small frame, up to 256 bytes each, and ends a connection at half of its window. One
/// user who does not read an answer in frames of a few bytes would end the streams of all others. With this it takes sixteen
/// such users, and a byte in each frame.
const CONNECTION_WINDOW: u32 = i32::MAX.cast_unsigned();

/// Bytes of one request that may wait for a dataserver that reads slowly.
pub(in crate::proxy) const SEND_BUFFER: usize = 64 * 1024;

/// What a connection goes by from its beginning to its end.
#[derive(PartialEq)]
pub(in crate::proxy) struct Terms {
    /// For so long it may be silent before it is pinged.
    ping: Duration,
    /// So long the answer to that may take.
    answered_within: Duration,
    head_bytes: u32,
}

impl Terms {
    pub(in crate::proxy) fn of(Settings { timeouts, limits, .. }: &Settings) -> Self {
        Self {
            ping: timeouts.upstream_ping,
            answered_within: timeouts.response_head,
            head_bytes: u32::try_from(limits.head_bytes).unwrap_or(u32::MAX),
        }
    }
}

/// A connection's other end, driven by a task of its own and asked by whoever wants a stream.
///
/// hyper has two tasks for it: one takes requests, the other has the socket. Here one runs both, for their order: a request that
/// found a stream goes out before anything more is read. Were a lower limit of streams read in between, h2 would hold the
/// request back until another stream ends, without a word.
pub(in crate::proxy) struct Driver {
    requests: RefCell<Option<Connection<TokioIo<Heard>, Upload, LocalExecutor>>>,
    executor: LocalExecutor,
    hearing: Rc<Hearing>,
}

impl Driver {
    /// Streams that the peer allows at once: none before its SETTINGS have come, and none after the end.
    pub(in crate::proxy) fn max_streams(&self) -> usize {
        self.requests.borrow().as_ref().map_or(0, Connection::current_max_send_streams)
    }

    async fn run(&self, dataserver: &Addr) {
        let mut socket = self.executor.0.socket.take();
        poll_fn(|cx| {
            self.poll_requests(cx, dataserver);
            if self.executor.0.has_begun.take() {
                self.hearing.is_off.set(true);
                poll_task(&mut socket, cx);
                self.hearing.is_off.set(false);
            }
            poll_task(&mut socket, cx);
            let has_ended = socket.is_none() && self.requests.borrow().is_none();
            if has_ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn poll_requests(&self, cx: &mut Context<'_>, dataserver: &Addr) {
        let mut requests = self.requests.borrow_mut();
        let Some(connection) = requests.as_mut() else { return };
        let Poll::Ready(ended) = Pin::new(connection).poll(cx) else { return };
        if let Err(error) = ended {
            // Whoever had a request on it hears of it in terms of that request.
            tracing::trace!(%dataserver, %error, "connection to a dataserver ended");
        }
        *requests = None;
        self.hearing.wake();
    }
}

/// Polls a task that may have ended.
fn poll_task(task: &mut Option<Task>, cx: &mut Context<'_>) {
    if task.as_mut().is_some_and(|task| task.as_mut().poll(cx).is_ready()) {
        *task = None;
    }
}

/// Opens one and waits until the peer has said how many streams it allows. To be called within a limit of time.
pub(in crate::proxy) async fn http2(
    worker: &Worker,
    upstream: &Upstream,
) -> Result<Rc<Http2Connection>, Failure> {
    let hearing = Rc::<Hearing>::default();
    let stream = Heard { stream: dial(worker, upstream).await?, hearing: hearing.clone() };
    let terms = Terms::of(&worker.settings());
    let executor = LocalExecutor::default();
    let (sender, requests) = Builder::new(executor.clone())
        .timer(TokioTimer::new())
        .keep_alive_interval(terms.ping)
        .keep_alive_timeout(terms.answered_within)
        // Nothing is sent before the peer's limit is known: what is over it would be refused.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(terms.head_bytes)
        // h2 forgets streams that were reset while much of their answers was under way, takes that for errors, and ends a
        // connection at so many in all its life. Those who cancel are users, and others are on it.
        .max_local_error_reset_streams(None)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Closed)?;
    let requests = RefCell::new(Some(requests));
    let driver = Rc::new(Driver { requests, executor: executor.clone(), hearing: hearing.clone() });
    let connection = Http2Connection::new(sender, driver.clone(), executor);
    let dataserver = upstream.addr.clone();
    spawn_local(async move { driver.run(&dataserver).await });
    poll_fn(|cx| {
        if connection.max_streams() > 0 {
            return Poll::Ready(Ok(()));
        }
        // It answered our preface with something else, or not at all.
        if connection.is_closed() {
            return Poll::Ready(Err(Failure::Protocol));
        }
        hearing.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await?;
    Ok(Rc::new(connection))
}

/// A socket that wakes whoever waits for something to come. hyper does not tell when the SETTINGS have come; whoever
/// is woken here runs after hyper has read them.
struct Heard {
    stream: TcpStream,
    hearing: Rc<Hearing>,
}

#[derive(Default)]
struct Hearing {
    waker: Cell<Option<Waker>>,
    /// Nothing is read for now. Who turns it off turns it on again and asks anew: meanwhile nobody is woken.
    is_off: Cell<bool>,
}

impl Hearing {
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.hearing.is_off.get() {
            return Poll::Pending;
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.hearing.wake();
        }
        read
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf).map(|written| or_lost(written, || buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = || bufs.iter().map(|buf| buf.len()).sum();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs).map(|written| or_lost(written, all))
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

/// What was written to somebody who has closed is lost, and that is for the next read to say: what they said before comes first. It may be
/// a GOAWAY, by which they have not processed it.
fn or_lost(written: io::Result<usize>, all: impl FnOnce() -> usize) -> io::Result<usize> {
    match written {
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(all())
        }
        written => written,
    }
}

/// Runs the tasks of a connection on the worker that it belongs to.
#[derive(Clone, Default)]
pub(in crate::proxy) struct LocalExecutor(Rc<Tasks>);

#[derive(Default)]
struct Tasks {
    /// The first, which has the socket: its driver runs it.
    socket: Cell<Option<Task>>,
    has_socket: Cell<bool>,
    /// The upload whose task comes next.
    next: Cell<Option<Rc<Sending>>>,
    /// Whether there is a request whose head h2 was given and may not have written yet.
    has_begun: Cell<bool>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The task that sends a body, once there is one.
#[derive(Default)]
pub(in crate::proxy) struct Sending {
    task: Cell<Option<AbortHandle>>,
    has_ended: Cell<bool>,
}

impl Sending {
    /// Ends the task, also one that is yet to begin: hyper makes it when the stream is open, however long that takes.
    pub(in crate::proxy) fn end(&self) {
        self.has_ended.set(true);
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }

    fn begin(&self, task: AbortHandle) {
        if self.has_ended.get() {
            task.abort();
        } else {
            self.task.set(Some(task));
        }
    }
}

impl LocalExecutor {
    /// A request begins. The next task is that of its upload, or of none.
    pub(in crate::proxy) fn begins(&self, upload: Option<Rc<Sending>>) {
        self.0.next.set(upload);
        self.0.has_begun.set(true);
    }
}

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        if !self.0.has_socket.replace(true) {
            self.0.socket.set(Some(Box::pin(async { drop(task.await) })));
            return;
        }
        let task = spawn_local(task);
        if let Some(upload) = self.0.next.take() {
            upload.begin(task.abort_handle());
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor;
    use tokio::task::LocalSet;

    use super::*;

    /// Its user may go while the stream waits to be opened.
    #[tokio::test]
    async fn an_upload_that_has_ended_before_it_begins_is_not_sent() {
        let executor = LocalExecutor::default();
        executor.execute(async {}); // the one that has the socket
        LocalSet::new()
            .run_until(async {
                for ends_before in [true, false] {
                    let (sending, held) = (Rc::<Sending>::default(), Rc::new(()));
                    let holder = held.clone();
                    executor.begins(Some(sending.clone()));
                    if ends_before {
                        sending.end();
                    }
                    executor.execute(async move {
                        std::future::pending::<()>().await;
                        drop(holder);
                    });
                    if !ends_before {
                        tokio::task::yield_now().await;
                        assert_eq!(Rc::strong_count(&held), 2, "it is under way");
                        sending.end();
                    }
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                    assert_eq!(Rc::strong_count(&held), 1);
                }
            })
            .await;
    }
}
