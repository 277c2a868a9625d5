//! One connection from a user: what comes before HTTP, which HTTP it is, and that to its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};
use tower::Service;

use super::drain::Drain;
use super::http2::{Adapter, LocalExecutor, Streams, Terms};
use super::io::{Downstream, Socket, Stream, close, linger};
use super::spread::Counted;
use super::{Settings, proxy_protocol};
use crate::current::Current;
use crate::http1::{self, Ending, Opening};
use crate::message::{Request, Response};
use crate::metrics::{Protocol, Refused, Worker};
use crate::proxy::{self, Body, Client, Incoming};

/// What an HTTP/2 client says first (RFC 9113 §3.4). It was chosen so that no HTTP/1 request begins like it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams that an HTTP/2 client may have open on one connection at once.
const MAX_STREAMS: u32 = 128;

/// Bytes of one answer of HTTP/2 that may wait for its user. What is there is no longer a request under way, so that
/// nothing else bounds it.
const SEND_BUFFER: usize = 64 * 1024;

/// Bytes of one upload of HTTP/2 that may wait for its dataserver; as many as of one of HTTP/1 by default.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes of all uploads of a connection: 32 MiB, so that those that are not read do not hold up the others. How many
/// uploads there are on all connections is for `limits.in_flight` to bound. h2 counts what it costs to hold a small frame,
/// up to 256 bytes each, and ends a connection at half of this, so that another 16 MiB are the most for that; a
/// user may fill the window of a stream with frames of five bytes.
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// What the connections of a worker have in common.
pub struct Http {
    now: Current<Now>,
    /// How long a write waits for its reader, on every connection.
    write_limit: Rc<Cell<Duration>>,
    /// What users of HTTP/2 have to keep to, on every connection.
    terms: Rc<Cell<Terms>>,
    executor: LocalExecutor,
    scratch: Rc<http1::Scratch>,
}

/// What holds at present.
struct Now {
    settings: Settings,
    http2: http2::Builder<LocalExecutor>,
}

impl Http {
    /// By these settings.
    pub fn new(settings: Settings) -> Rc<Self> {
        let executor = LocalExecutor::default();
        let scratch = Rc::new(http1::Scratch::new(settings.limits.body_buffer));
        let write_limit = Rc::new(Cell::new(settings.timeouts.idle_body));
        let terms = Rc::new(Cell::new(terms(&settings)));
        let now = Current::new(Now::new(settings, &executor));
        Rc::new(Self { now, write_limit, terms, executor, scratch })
    }

    /// From now on these hold: for every connection that comes, and for the next request on one that is open. What was
    /// agreed on when one of HTTP/2 began stays: how large a head may be, and when a user is asked whether it is there.
    pub fn reconfigure(&self, settings: Settings) {
        self.scratch.set_body_read(settings.limits.body_buffer);
        self.write_limit.set(settings.timeouts.idle_body);
        self.terms.set(terms(&settings));
        self.now.set(Now::new(settings, &self.executor));
    }

    /// How long what is under way has to end, once the drain begins.
    pub(super) fn drain_time(&self) -> Duration {
        self.now.get().settings.timeouts.drain
    }

    /// What a connection on which nothing is under way has for one more request when the drain begins.
    fn grace(&self) -> Duration {
        let now = self.now.get();
        let timeouts = &now.settings.timeouts;
        timeouts.drain_idle.min(timeouts.drain / 2)
    }

    /// One connection, from what comes before HTTP to its end.
    #[expect(clippy::manual_async_fn, reason = "an async fn has room for each of its arguments twice")]
    pub(super) fn connection<S>(
        self: Rc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        service_for: Rc<impl Fn(Client) -> S>,
        drain: Drain,
        place: Place,
    ) -> impl Future<Output = ()>
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        async move {
            let now = self.now.get();
            let Settings { timeouts, proxy_protocol, tls, counts, .. } = &now.settings;
            let open = Rc::new(Open::new(place, counts.clone()));
            let deadline = Instant::now() + timeouts.request_head;
            let mut client = Client { ip: peer.ip(), over_tls: false };
            if let Some(senders) = proxy_protocol {
                if !senders.contains(peer.ip()) {
                    return self.refuse(Refused::ProxyProtocolSender, &peer);
                }
                let header = proxy_protocol::read(&mut stream);
                let Some(source) = self.opening(Refused::ProxyProtocol, header, deadline, &drain).await
                else {
                    return;
                };
                client.ip = source.unwrap_or(client.ip);
            }
            let socket = Socket::new(stream, self.write_limit.clone(), open.clone());
            // What holds now must not be kept for as long as this connection lasts.
            let identity = tls.clone();
            drop(now);
            match identity {
                None => self.http(socket, || service_for(client), deadline, &drain, &open).await,
                // In a box: a connection in the clear must not have the room for both.
                Some(identity) => {
                    Box::pin(async {
                        let handshake = identity.acceptor().accept(socket);
                        if let Some(stream) = self.opening(Refused::Tls, handshake, deadline, &drain).await {
                            let client = Client { over_tls: true, ..client };
                            self.http(stream, || service_for(client), deadline, &drain, &open).await;
                        }
                    })
                    .await;
                }
            }
        }
    }

    /// Waits for what comes before HTTP. With `None` the connection ends: that is not as it should be, which is
    /// counted as `refused`, or the drain has begun and nothing was asked yet.
    async fn opening<T>(
        &self,
        refused: Refused,
        opening: impl Future<Output = std::io::Result<T>>,
        deadline: Instant,
        drain: &Drain,
    ) -> Option<T> {
        let opened = tokio::select! {
            biased;
            opened = timeout_at(deadline, opening) => opened,
            // What has begun to be agreed on may well lead to a request.
            () = drain.begun_for(self.now.get().settings.timeouts.linger) => return None,
        };
        let error = match opened {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(error)) => error,
            Err(late) => late.into(),
        };
        self.refuse(refused, &error);
        None
    }

    fn refuse(&self, refused: Refused, because: &dyn fmt::Display) {
        tracing::debug!(%because, reason = refused.label(), "a connection was refused");
        if let Some(counts) = &self.now.get().settings.counts {
            counts.refused(refused);
        }
    }

    /// HTTP on a connection, to its end.
    #[expect(clippy::manual_async_fn, reason = "an async fn has room for each of its arguments twice")]
    fn http<T, S>(
        &self,
        stream: T,
        service: impl Fn() -> S,
        deadline: Instant,
        drain: &Drain,
        open: &Open,
    ) -> impl Future<Output = ()>
    where
        T: Stream,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        async move {
            let ended = {
                let connection = pin!(self.http1_connection(stream, service(), deadline, open));
                let end = |connection: Pin<&mut http1::Connection<_, _>>| {
                    connection.graceful_shutdown(self.grace());
                };
                let limit = |connection: &http1::Connection<_, _>| {
                    let limit = (!connection.is_waited_for()).then(|| self.grace());
                    async move {
                        match limit {
                            Some(limit) => sleep(limit).await,
                            None => pending().await,
                        }
                    }
                };
                drain.watch(pending(), connection, end, limit).await.flatten()
            };
            let Some((mut stream, ending)) = ended else { return };
            match ending {
                Ending::Close => {
                    let limit = self.now.get().settings.timeouts.linger;
                    close(&mut stream, limit).await;
                }
                Ending::Linger => self.linger(&mut stream).await,
                Ending::Reset => stream.reset_when_closed(true),
                Ending::Other(seen) => {
                    open.speaks(Protocol::Http2);
                    // In a box: a connection of HTTP/1 must not have the room for both.
                    Box::pin(self.http2(Downstream::new(stream, seen), service(), drain)).await;
                }
            }
        }
    }

    async fn linger(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
        let (time, bytes) = {
            let now = self.now.get();
            (now.settings.timeouts.linger, now.settings.limits.linger_bytes)
        };
        linger(stream, time, bytes).await;
    }

    fn http1_connection<T, S>(
        &self,
        stream: T,
        mut service: S,
        deadline: Instant,
        open: &Open,
    ) -> http1::Connection<impl Future<Output = Option<(T, Ending)>>, T>
    where
        T: Stream,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let opens = |bytes: &[u8]| {
            if bytes.starts_with(PREFACE) {
                return Opening::Other;
            }
            if PREFACE.starts_with(bytes) {
                return Opening::Unclear;
            }
            open.speaks(Protocol::Http1);
            Opening::Http1
        };
        let rules = || {
            let now = self.now.get();
            let Settings { timeouts, limits, .. } = &now.settings;
            let limits = http1::Limits { bytes: limits.head_bytes, fields: limits.headers };
            http1::HeadRules { limits, time: timeouts.request_head }
        };
        let call = move |request: Request<http1::Incoming>| {
            let answer = service.call(request.map(Incoming::http1));
            async move {
                let Ok(answer) = answer.await;
                answer
            }
        };
        let refuse = |refusal: http1::Refusal| {
            tracing::debug!(%refusal, "refused what is no request");
            if let Some(counts) = &self.now.get().settings.counts {
                counts.refused_head(refusal.status().as_u16());
            }
            proxy::Error::from(refusal).response()
        };
        http1::serve(stream, opens, (deadline, rules), self.scratch.clone(), call, refuse)
    }

    async fn http2<T, S>(&self, stream: Downstream<T>, service: S, drain: &Drain)
    where
        T: Stream,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let now = self.now.get();
        let streams = Streams::new(self.terms.clone());
        stream.note_moves(streams.moved());
        let (is_still, mut rest) = (stream.is_still(), stream.other_handle());
        let service = Adapter::new(service, streams.clone(), self.executor.clone());
        let mut connection = pin!(now.http2.serve_connection(TokioIo::new(stream), service));
        drop(now);
        let end = |connection: Pin<&mut http2::Connection<_, _, _>>| {
            is_still.set(true);
            connection.graceful_shutdown();
        };
        let limit = |_: &_| async {
            if streams.are_waited_for() {
                // It may have been told to end for being idle.
                drain.begun().await;
                self.stays_still(&streams, &is_still).await;
            } else {
                sleep(self.grace()).await;
            }
        };
        tokio::select! {
            ended = drain.watch(streams.idle(1), connection.as_mut(), end, limit) => {
                match ended {
                    Some(Err(error)) if breaks_rules(&error) => {
                        self.refuse(Refused::Http2, &error);
                        self.linger(&mut rest).await;
                    }
                    Some(Err(error)) => tracing::debug!(%error, "a user's connection ended with an error"),
                    // All is written and maybe not yet read, and a user goes on to say what it has room for.
                    Some(Ok(())) => self.linger(&mut rest).await,
                    None => {}
                }
            }
            // Asked to end, hyper waits for a user that does not read.
            () = streams.idle(2) => {}
            () = streams.abused() => self.refuse(Refused::CancelledStreams, &"limits.cancelled_streams"),
        }
    }

    /// Resolves when there was no stream for as long as a user has for one more request, and the user is gone: it has not
    /// even acknowledged the PING that goes with the GOAWAY. One who has said anything is left to h2, which knows whether
    /// there is still something to send.
    async fn stays_still(&self, streams: &Streams, is_still: &Cell<bool>) {
        let grace = self.grace();
        loop {
            sleep(grace).await;
            if !is_still.get() {
                return pending().await;
            }
            if streams.are_none() && streams.moved().get().elapsed() >= grace {
                return;
            }
        }
    }
}

fn terms(Settings { timeouts, limits, .. }: &Settings) -> Terms {
    Terms {
        idle: timeouts.request_head,
        stalled: timeouts.idle_body,
        stalled_grpc: timeouts.idle_tunnel,
        cancelled: limits.cancelled_streams,
    }
}

impl Now {
    fn new(settings: Settings, executor: &LocalExecutor) -> Self {
        let (timeouts, limits) = (&settings.timeouts, &settings.limits);
        let mut http2 = http2::Builder::new(executor.clone());
        http2
            .timer(TokioTimer::new())
            // A client that is gone without a word is found out by a ping that it does not answer. The ping waits
            // behind what the client has yet to read.
            .keep_alive_interval(timeouts.request_head)
            .keep_alive_timeout(timeouts.request_head.max(timeouts.idle_body))
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            // Those that are cancelled before hyper has seen them count as the others do, once it has.
            .max_pending_accept_reset_streams(limits.cancelled_streams);
        Self { settings, http2 }
    }
}

/// Whether a connection ended because its user broke the rules, and not by leaving.
fn breaks_rules(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(h2::Error::is_library)
}

/// Has a place and counts as a connection for as long as its socket is open, also as a tunnel.
struct Open {
    _place: Place,
    counts: Option<Arc<Worker>>,
    protocol: Cell<Protocol>,
}

type Place = (OwnedSemaphorePermit, Counted);

impl Open {
    fn new(place: Place, counts: Option<Arc<Worker>>) -> Self {
        if let Some(counts) = &counts {
            counts.opened(Protocol::Unknown);
        }
        Self { _place: place, counts, protocol: Cell::new(Protocol::Unknown) }
    }

    fn speaks(&self, protocol: Protocol) {
        let before = self.protocol.replace(protocol);
        if let Some(counts) = &self.counts {
            counts.closed(before);
            counts.opened(protocol);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(counts) = &self.counts {
            counts.closed(self.protocol.get());
        }
    }
}
