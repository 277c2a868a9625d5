//! One connection: a request, its answer, the next request.

use std::future::{Future, poll_fn, ready};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{self, Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::Unwaited;
use super::answer::{Asked, Written, write_head};
use super::body::{Decoder, Incoming};
use super::head::{Head, Limits, Refusal, parse};
use super::output::{Framing, Output};
use super::transport::Transport;
use super::wire::{Io, ReadError, Scratch};
use crate::alarm::Alarm;
use crate::message::{Request, Response};

/// Bytes that most heads of answers have room in, with a small body behind them.
const HEAD_CAPACITY: usize = 1024;

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A head of HTTP/1, or what is no head at all.
    Http1,
    /// Something else, which is not for here.
    Other,
    /// So far it may be either.
    Unclear,
}

/// How a connection ends here.
#[derive(Debug)]
pub enum Ending {
    /// At once.
    Close,
    /// After what the user still sends was read and dropped for a while: closed before, the kernel would answer
    /// it with a reset, and the user might never see the answer.
    Linger,
    /// By a reset: nothing else tells the user that the answer is not whole.
    Reset,
    /// It goes on as something else, of which this was read.
    Other(BytesMut),
}

pin_project! {
    /// A connection that is served for as long as this is polled.
    pub struct Connection<F, IO> {
        #[pin]
        served: F,
        transport: Rc<Transport<IO>>,
    }
}

impl<F, IO> Connection<F, IO> {
    /// The next answer is the last. A user that asks nothing has `grace` to do so from when it could: closed at once,
    /// its connection would meet the request that is just on its way.
    pub fn graceful_shutdown(self: Pin<&mut Self>, grace: Duration) {
        self.transport.closing.set(Some(grace));
    }

    /// Whether there is something under way that is to end by itself.
    pub fn is_waited_for(&self) -> bool {
        !self.transport.unwaited.get()
    }
}

impl<F: Future, IO> Future for Connection<F, IO> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().served.poll(cx)
    }
}

/// What a head has to keep to.
#[derive(Debug, Clone, Copy)]
pub struct HeadRules {
    /// How large it may be.
    pub limits: Limits,
    /// How long it may take to come, from when the gateway waits for it.
    pub time: Duration,
}

/// Serves a connection, if `opens` takes what it begins with for HTTP/1. The first head has to be there by the deadline;
/// of each head `rules` is asked. `call` answers requests, `refuse` what is none.
///
/// Resolves to the socket and what is to be done with it; to nothing if it is somebody else's now.
pub fn serve<IO, B, C, R>(
    io: IO,
    opens: impl FnMut(&[u8]) -> Opening,
    (deadline, rules): (Instant, impl Fn() -> HeadRules),
    scratch: Rc<Scratch>,
    call: impl FnMut(Request<Incoming>) -> C + 'static,
    refuse: R,
) -> Connection<impl Future<Output = Option<(IO, Ending)>>, IO>
where
    IO: Io,
    B: Body<Data = Bytes> + Unpin,
    C: Future<Output = Response<B>>,
    R: Fn(Refusal) -> Response<B>,
{
    let transport = Rc::new(Transport::new(io, scratch));
    let served = run(transport.clone(), opens, (deadline, rules), call, refuse);
    Connection { served, transport }
}

#[expect(clippy::manual_async_fn, reason = "an async fn has room for each of its arguments twice")]
fn run<IO: Io, B: Body<Data = Bytes> + Unpin, C: Future<Output = Response<B>>>(
    transport: Rc<Transport<IO>>,
    opens: impl FnMut(&[u8]) -> Opening,
    (deadline, rules): (Instant, impl Fn() -> HeadRules),
    mut call: impl FnMut(Request<Incoming>) -> C,
    refuse: impl Fn(Refusal) -> Response<B>,
) -> impl Future<Output = Option<(IO, Ending)>> {
    async move {
        let mut clock = HeadClock { alarm: Alarm::new(deadline), grace: None };
        let mut opens = Some(opens);
        let ending = loop {
            let HeadRules { limits, .. } = rules();
            let mut parsed = 0;
            let head = poll_fn(|cx| poll_head(&transport, &mut opens, limits, &mut clock, &mut parsed, cx));
            let ended = match head.await {
                Ok(head) => {
                    let asked = Asked::of(&head);
                    transport.state().begin_body(Decoder::new(head.body, limits), head.expects_continue);
                    let request = Request::from_parts(head.parts, Incoming::new(transport.clone()));
                    exchange(&transport, pin!(call(request)), asked).await
                }
                Err(NoHead::Refused(refusal)) => {
                    let refused = pin!(ready(refuse(refusal)));
                    match exchange(&transport, refused, Asked::unknown()).await {
                        Ended::Left => break Ending::Close,
                        _ => break Ending::Linger,
                    }
                }
                Err(NoHead::Other) => break Ending::Other(transport.take_unread()),
                Err(NoHead::Ended) => break Ending::Close,
            };
            match ended {
                Ended::KeptAlive => clock.restart(rules().time),
                Ended::Switched => {
                    transport.switch();
                    return None;
                }
                Ended::Answered { users_last: true } if transport.is_all_read() => break Ending::Close,
                // More may be on its way, or wait in the kernel.
                Ended::Answered { .. } | Ended::Broken { visible: true } => break Ending::Linger,
                Ended::Left => break Ending::Close,
                Ended::Broken { visible: false } => break Ending::Reset,
            }
        };
        transport.take().zip(Some(ending))
    }
}

/// Why there is no head.
enum NoHead {
    /// The user has left, or asked nothing before it had to.
    Ended,
    Refused(Refusal),
    /// It is not HTTP/1 that begins.
    Other,
}

/// `opens` is asked until it has taken what came for HTTP/1.
fn poll_head<IO: Io>(
    transport: &Transport<IO>,
    opens: &mut Option<impl FnMut(&[u8]) -> Opening>,
    limits: Limits,
    clock: &mut HeadClock,
    parsed: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Head, NoHead>> {
    let parse = |bytes: &[u8]| {
        match opens.as_mut().map_or(Opening::Http1, |opens| opens(bytes)) {
            Opening::Http1 => *opens = None,
            Opening::Other => return Err(NoHead::Other),
            Opening::Unclear => return Ok(None),
        }
        let head = parse(bytes, limits).map_err(NoHead::Refused)?;
        Ok(head.map(|head| (head.bytes, head)))
    };
    match transport.poll_head(cx, limits.bytes, parsed, parse) {
        Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
        Poll::Ready(Err(ReadError::Parse(no_head))) => return Poll::Ready(Err(no_head)),
        Poll::Ready(Err(ReadError::Ended | ReadError::Lost)) => return Poll::Ready(Err(NoHead::Ended)),
        Poll::Pending => {}
    }
    let begun = transport.state().wire.has_begun_head();
    if let Some(grace) = transport.closing.get()
        && !begun
        && clock.poll_grace(grace, cx).is_ready()
    {
        return Poll::Ready(Err(NoHead::Ended));
    }
    task::ready!(clock.alarm.poll(cx));
    Poll::Ready(Err(if begun { NoHead::Refused(Refusal::TimedOut) } else { NoHead::Ended }))
}

/// How an exchange ended.
enum Ended {
    /// The next request may come.
    KeptAlive,
    /// The answer was 101.
    Switched,
    /// It was answered, and the connection is not to be used again; whether its user has said that it was the last.
    Answered { users_last: bool },
    /// The user has left, or cannot be written to.
    Left,
    /// The answer broke off; whether its user can see that from what it got.
    Broken { visible: bool },
}

async fn exchange<IO: Io, B: Body<Data = Bytes> + Unpin>(
    transport: &Rc<Transport<IO>>,
    mut answer: Pin<&mut impl Future<Output = Response<B>>>,
    mut asked: Asked,
) -> Ended {
    let answered = |cx: &mut Context<'_>| match answer.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response.into_parts())),
        Poll::Pending => transport.poll_left(cx).map(|()| None),
    };
    let Some((parts, mut body)) = poll_fn(answered).await else { return Ended::Left };
    let users_last = !asked.keep_alive;
    asked.keep_alive &= transport.may_stay();
    transport.unwaited.set(parts.extensions.get::<Unwaited>().is_some());
    let mut head = Vec::with_capacity(HEAD_CAPACITY);
    let written = write_head(&parts, body.size_hint().exact(), asked, &mut head);
    let Ok(Written { framing, keep_alive }) = written else { return Ended::Broken { visible: false } };
    let status = parts.status;
    parts.recycle();
    let mut outgoing =
        Outgoing { output: Output::new(head, framing, asked.takes_trailers), keep_alive, broken: false };
    let ends_with_connection = framing == Framing::UntilClose;
    if ends_with_connection {
        // Also where nobody here can see to it any more: the gateway may be killed.
        transport.state().wire.reset_when_closed(true);
    }
    let written = poll_fn(|cx| outgoing.poll_write(transport, Pin::new(&mut body), cx)).await;
    if ends_with_connection && written.is_ok() {
        transport.state().wire.reset_when_closed(false);
    }
    // HTTP/1.0 has no last chunk to miss, and its programs do not count bytes.
    let visible = !ends_with_connection && asked.version != Version::HTTP_10;
    match written {
        Ok(()) if status == StatusCode::SWITCHING_PROTOCOLS => Ended::Switched,
        Ok(()) if keep_alive && transport.state().wire.body.is_end() => Ended::KeptAlive,
        Ok(()) => Ended::Answered { users_last },
        // A user that does not read may do so later, and what is in the kernel is not the whole.
        Err(Stopped::Left) if visible => Ended::Left,
        Err(Stopped::Left | Stopped::Broken) => Ended::Broken { visible },
    }
}

/// Why an answer was not written to its end.
enum Stopped {
    /// The user does not take it.
    Left,
    /// Its body ended too early, too late or with an error.
    Broken,
}

/// An answer on its way out.
struct Outgoing {
    output: Output,
    /// Another one may follow on its connection.
    keep_alive: bool,
    /// Its body was not what it said.
    broken: bool,
}

impl Outgoing {
    fn poll_write<IO: Io, B: Body<Data = Bytes>>(
        &mut self,
        transport: &Transport<IO>,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        let Self { output, keep_alive, broken } = self;
        task::ready!(transport.state().poll_end_continue(cx)).map_err(|_| Stopped::Left)?;
        loop {
            *broken = *broken || output.fill(body.as_mut(), cx).is_err();
            if !output.is_written() {
                output.join();
                let wire = &mut transport.state().wire;
                if !*keep_alive && output.is_all_here() {
                    wire.write_last();
                }
                // Also the head of a body that is broken from its first byte: a user who sees nothing at all takes it
                // for a connection that was closed before, and asks again.
                task::ready!(output.poll_write(wire, cx)).map_err(|_| Stopped::Left)?;
            } else if *broken {
                return Poll::Ready(Err(Stopped::Broken));
            } else if output.is_done() {
                return Poll::Ready(Ok(()));
            } else {
                return transport.poll_left(cx).map(|()| Err(Stopped::Left));
            }
        }
    }
}

/// The time that a head has, from when the gateway waits for it.
struct HeadClock {
    alarm: Alarm,
    /// Until when its first byte must be there, once the gateway drains.
    grace: Option<Alarm>,
}

impl HeadClock {
    fn restart(&mut self, limit: Duration) {
        self.alarm.set(Instant::now() + limit);
        self.grace = None;
    }

    fn poll_grace(&mut self, grace: Duration, cx: &mut Context<'_>) -> Poll<()> {
        self.grace.get_or_insert_with(|| Alarm::new(Instant::now() + grace)).poll(cx)
    }
}
