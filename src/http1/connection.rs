//! One connection: a request, its answer, the next request.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::{Asked, Framing, Written, write_head};
use super::body::{Decoder, Incoming};
use super::head::{Head, Limits, Refusal, parse};
use super::output::Output;
use super::transport::{Io, Scratch, Transport};

/// How a connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// At once.
    Close,
    /// After what the user still sends was read and dropped for a while: closed before, the kernel would answer
    /// it with a reset, and the user might never see the answer.
    Linger,
    /// By a reset: nothing else tells the user that the answer is not whole.
    Reset,
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
    /// The answer that is under way, if there is one, is the last.
    pub fn graceful_shutdown(self: Pin<&mut Self>) {
        self.transport.closing.set(true);
    }
}

impl<F: Future, IO> Future for Connection<F, IO> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().served.poll(cx)
    }
}

/// How long a head may take to come.
#[derive(Debug, Clone, Copy)]
pub struct HeadTime {
    /// Until when the first must be there.
    pub first: Instant,
    /// How long each other has, from when the gateway waits for it.
    pub next: Duration,
}

/// Serves a connection of which `read` was read already. `call` answers its requests, `refuse` what is none.
///
/// Resolves to the socket and what is to be done with it; to nothing if it is somebody else's now.
pub fn serve<IO, B, C, R>(
    io: IO,
    read: BytesMut,
    (limits, head_time): (Limits, HeadTime),
    scratch: Rc<Scratch>,
    call: impl FnMut(Request<Incoming>) -> C + 'static,
    refuse: R,
) -> Connection<impl Future<Output = Option<(IO, Ending)>>, IO>
where
    IO: Io,
    B: Body<Data = Bytes>,
    C: Future<Output = Response<B>>,
    R: Fn(Refusal) -> Response<B>,
{
    let transport = Rc::new(Transport::new(io, read, scratch));
    let served = run(transport.clone(), limits, head_time, call, refuse);
    Connection { served, transport }
}

async fn run<IO: Io, B: Body<Data = Bytes>, C: Future<Output = Response<B>>>(
    transport: Rc<Transport<IO>>,
    limits: Limits,
    head_time: HeadTime,
    mut call: impl FnMut(Request<Incoming>) -> C,
    refuse: impl Fn(Refusal) -> Response<B>,
) -> Option<(IO, Ending)> {
    let mut clock = pin!(HeadClock::new(head_time));
    let ending = loop {
        let mut parsed = 0;
        let ended = match poll_fn(|cx| poll_head(&transport, limits, clock.as_mut(), &mut parsed, cx)).await {
            Ok(head) => {
                let asked = Asked::of(&head);
                transport.state().begin_body(Decoder::new(head.body, limits), head.expects_continue);
                let request = Request::from_parts(head.parts, Incoming::new(transport.clone()));
                exchange(&transport, call(request), asked).await
            }
            Err(NoHead::Refused(refusal)) => {
                match exchange(&transport, std::future::ready(refuse(refusal)), Asked::unknown()).await {
                    Ended::Left => break Ending::Close,
                    _ => break Ending::Linger,
                }
            }
            Err(NoHead::Ended) => break Ending::Close,
        };
        match ended {
            Ended::KeptAlive => clock.as_mut().restart(),
            Ended::Switched => {
                transport.switch();
                return None;
            }
            Ended::Answered if transport.is_all_read() => break Ending::Close,
            Ended::Answered => break Ending::Linger,
            Ended::Left | Ended::Broken { visible: true } => break Ending::Close,
            Ended::Broken { visible: false } => break Ending::Reset,
        }
    };
    transport.take().zip(Some(ending))
}

/// Why there is no head.
enum NoHead {
    /// The user has left, or asked nothing before it had to.
    Ended,
    Refused(Refusal),
}

fn poll_head<IO: Io>(
    transport: &Transport<IO>,
    limits: Limits,
    clock: Pin<&mut HeadClock>,
    parsed: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<Result<Head, NoHead>> {
    loop {
        if let Some(head) = parse_unread(transport, limits, parsed) {
            return Poll::Ready(head.map_err(NoHead::Refused));
        }
        // Most heads come in one piece, and are taken from where they were read to.
        let mut at_once = None;
        let read = transport.poll_read_with(cx, |bytes| match parse(bytes, limits) {
            Ok(None) => {
                *parsed = bytes.len();
                0
            }
            Ok(Some(head)) => at_once.insert(Ok(head)).as_ref().map_or(0, |head| head.bytes),
            Err(refusal) => {
                at_once = Some(Err(refusal));
                0
            }
        });
        match read {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoHead::Ended)),
            Poll::Ready(Ok(_)) => {
                if let Some(head) = at_once {
                    return Poll::Ready(head.map_err(NoHead::Refused));
                }
            }
            Poll::Pending => {
                let begun = !transport.state().unread.is_empty();
                if transport.closing.get() && !begun {
                    return Poll::Ready(Err(NoHead::Ended));
                }
                ready!(clock.poll(cx));
                let error = if begun { NoHead::Refused(Refusal::TimedOut) } else { NoHead::Ended };
                return Poll::Ready(Err(error));
            }
        }
    }
}

/// Parses what was read before, unless that was done and the end of the head has not come since: a head that
/// comes byte by byte must not be parsed for each.
fn parse_unread<IO: Io>(
    transport: &Transport<IO>,
    limits: Limits,
    parsed: &mut usize,
) -> Option<Result<Head, Refusal>> {
    let mut state = transport.state();
    let unread = &state.unread;
    if unread.len() <= *parsed {
        return None;
    }
    let fresh = unread.get(parsed.saturating_sub(3)..).unwrap_or_default();
    let may_end = fresh.windows(2).any(|end| end == b"\n\n") || fresh.windows(3).any(|end| end == b"\n\r\n");
    let is_due = *parsed == 0 || may_end || unread.len() > limits.bytes;
    *parsed = unread.len();
    if !is_due {
        return None;
    }
    let head = parse(unread, limits).transpose()?;
    if let Ok(head) = &head {
        state.take(head.bytes);
    }
    Some(head)
}

/// How an exchange ended.
enum Ended {
    /// The next request may come.
    KeptAlive,
    /// The answer was 101.
    Switched,
    /// It was answered, and the connection is not to be used again.
    Answered,
    /// The user has left, or cannot be written to.
    Left,
    /// The answer broke off; whether its user can see that from what it got.
    Broken { visible: bool },
}

async fn exchange<IO: Io, B: Body<Data = Bytes>>(
    transport: &Rc<Transport<IO>>,
    answer: impl Future<Output = Response<B>>,
    mut asked: Asked,
) -> Ended {
    let response = {
        let mut answer = pin!(answer);
        let answered = |cx: &mut Context<'_>| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => transport.poll_left(cx).map(|()| None),
        };
        poll_fn(answered).await
    };
    let Some(response) = response else { return Ended::Left };
    asked.keep_alive &= transport.may_stay();

    let (parts, body) = response.into_parts();
    let mut output = Output::default();
    let head = write_head(&parts, body.size_hint().exact(), asked, output.front());
    let Ok(Written { framing, keep_alive }) = head else { return Ended::Broken { visible: false } };
    let ended = framing == Framing::NoBody || (body.is_end_stream() && framing == Framing::Known(0));
    let mut writing = Writing { output, framing, takes_trailers: asked.takes_trailers, ended };
    let mut body = pin!(body);
    match poll_fn(|cx| writing.poll(transport, body.as_mut(), cx)).await {
        Ok(()) if parts.status == StatusCode::SWITCHING_PROTOCOLS => Ended::Switched,
        Ok(()) if keep_alive && transport.state().body.is_end() => Ended::KeptAlive,
        Ok(()) => Ended::Answered,
        Err(Stopped::Left) => Ended::Left,
        Err(Stopped::Broken) => {
            // HTTP/1.0 has no last chunk to miss, and its programs do not count bytes.
            Ended::Broken { visible: framing != Framing::UntilClose && asked.version != Version::HTTP_10 }
        }
    }
}

/// An answer on its way out.
struct Writing {
    output: Output,
    /// What is left of it.
    framing: Framing,
    takes_trailers: bool,
    /// All of the body was taken in.
    ended: bool,
}

/// Why an answer was not written to its end.
enum Stopped {
    /// The user does not take it.
    Left,
    /// Its body ended too early, too late or with an error.
    Broken,
}

impl Writing {
    fn poll<IO: Io, B: Body<Data = Bytes>>(
        &mut self,
        transport: &Transport<IO>,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Stopped>> {
        {
            let mut state = transport.state();
            if state.is_inside_continue() {
                ready!(state.poll_continue(cx)).map_err(|_| Stopped::Left)?;
            }
            state.continue_left = &[];
        }
        loop {
            // The first frame goes out with the head, if it is there already.
            while !self.ended && self.output.takes_data() {
                match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.take(frame, body.is_end_stream())?,
                    Poll::Ready(None) => self.end(None)?,
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Stopped::Broken)),
                    Poll::Pending => break,
                }
            }
            if !self.output.is_empty() {
                ready!(self.output.poll_write(&mut transport.state(), cx)).map_err(|_| Stopped::Left)?;
                continue;
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            return transport.poll_left(cx).map(|()| Err(Stopped::Left));
        }
    }

    fn take(&mut self, frame: Frame<Bytes>, is_last: bool) -> Result<(), Stopped> {
        match frame.into_data() {
            Ok(data) => {
                if let Framing::Known(left) = &mut self.framing {
                    *left = left.checked_sub(data.len() as u64).ok_or(Stopped::Broken)?;
                    self.ended = *left == 0;
                }
                // A chunk of nothing would be the last one.
                if !data.is_empty() {
                    self.ended |= is_last && self.framing == Framing::Chunked;
                    self.output.put_data(data, self.framing, self.ended);
                } else if is_last {
                    self.end(None)?;
                }
                Ok(())
            }
            Err(frame) => self.end(frame.into_trailers().ok()),
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> Result<(), Stopped> {
        self.ended = true;
        match self.framing {
            Framing::Chunked => self.output.put_end(trailers.filter(|_| self.takes_trailers).as_ref()),
            Framing::Known(1..) => return Err(Stopped::Broken),
            Framing::Known(0) | Framing::NoBody | Framing::UntilClose => {}
        }
        Ok(())
    }
}

pin_project! {
    /// The time that a head has, from when the gateway waits for it. A timer is set once and then moved on when
    /// it fires too early: most requests come long before, and cost it nothing.
    struct HeadClock {
        limit: Duration,
        deadline: Instant,
        #[pin]
        timer: Sleep,
    }
}

impl HeadClock {
    fn new(time: HeadTime) -> Self {
        Self { limit: time.next, deadline: time.first, timer: sleep_until(time.first) }
    }

    fn restart(self: Pin<&mut Self>) {
        let this = self.project();
        *this.deadline = Instant::now() + *this.limit;
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            ready!(this.timer.as_mut().poll(cx));
            if this.timer.deadline() >= *this.deadline {
                return Poll::Ready(());
            }
            this.timer.as_mut().reset(*this.deadline);
        }
    }
}
