//! Connections from users: one listener per worker, the limits on connections, and a graceful end.
//!
//! hyper is driven directly. `axum::serve` installs no timer, so that hyper's own header timeout would be
//! dead under it, and it hides the limits.

mod drain;
mod io;
mod listen;
mod proxy_protocol;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::config::{Limits, Timeouts};
use crate::metrics::{Protocol, Refused, Worker};
use crate::proxy::{Body, Client};
use crate::tls::Identity;

pub use listen::bind;

use drain::Drain;
use io::{Downstream, Socket};

/// The longest pause after the process ran out of file descriptors, or the like, before the next accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// hyper's own limit of its read buffer, which a larger head must fit into.
const HYPER_MAX_BUF: usize = 8192 + 4096 * 100;

/// Streams that an HTTP/2 client may have open on one connection at once.
const MAX_STREAMS: u32 = 250;

/// How connections are served.
#[derive(Clone)]
pub struct Settings {
    /// `timeouts.request_head` (what comes before HTTP included), `timeouts.idle_body` and `timeouts.drain` matter here.
    pub timeouts: Timeouts,
    /// `limits.head_bytes` and `limits.headers` matter here.
    pub limits: Limits,
    /// One permit a connection, shared by all workers.
    pub connections: Arc<Semaphore>,
    /// The counts of the worker that serves; none for a listener that is not a worker's.
    pub counts: Option<Arc<Worker>>,
    /// Whether each connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// What connections are encrypted with, after that header; none for plain HTTP.
    pub tls: Option<Identity>,
}

/// Accepts and serves until `stop`, then lets what is under way end within `timeouts.drain`. `service_for` makes
/// the service of a connection for its client. Must run where `spawn_local` works.
///
/// Returns how many connections were cut off because they did not end in time.
pub async fn serve<S>(
    listener: TcpListener,
    service_for: impl Fn(Client) -> S + 'static,
    settings: Settings,
    stop: CancellationToken,
) -> usize
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let drain = Drain::default();
    let connections = TaskTracker::new();
    let http = Rc::new(Http::new(settings));
    let service_for = Rc::new(service_for);
    let mut accept_failed = false;
    let start = |(stream, peer, permit): Accepted| {
        let connection = http.clone().connection(stream, peer, service_for.clone(), drain.clone());
        spawn_local(connections.track_future(async move {
            connection.await;
            drop(permit);
        }));
    };
    let mut stopped = pin!(stop.cancelled());
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped.as_mut() => break,
            accepted = accept(&listener, &http.settings.connections) => accepted,
        };
        match accepted {
            Ok(accepted) => {
                accept_failed = false;
                start(accepted);
            }
            Err(error) => {
                if !accept_failed {
                    tracing::warn!(%error, "connections cannot be accepted for the moment");
                }
                accept_failed = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // What the kernel has taken in already is served: closing the listener would reset it.
    accept_queued(listener, &http.settings.connections).into_iter().for_each(start);
    drain.begin();
    connections.close();
    let _ = timeout(http.settings.timeouts.drain, connections.wait()).await;
    connections.len()
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// A connection, and a place for it. One that is over the limit waits here, accepted but not read; the
/// others wait in the kernel's queue.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let (stream, peer) = listener.accept().await?;
    let permit = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((stream, peer, permit))
}

/// What the kernel has taken in and nobody has accepted yet, as far as there are places. Asked of the kernel
/// itself: tokio knows only what its last look at the listener told. Closes the listener.
fn accept_queued(listener: TcpListener, places: &Arc<Semaphore>) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    let Ok(listener) = listener.into_std() else { return accepted };
    while let Ok((stream, peer)) = listener.accept() {
        let _ = stream.set_nonblocking(true); // or `from_std` refuses it, and it is closed
        let (Ok(stream), Ok(permit)) = (TcpStream::from_std(stream), places.clone().try_acquire_owned())
        else {
            break;
        };
        accepted.push((stream, peer, permit));
    }
    accepted
}

/// What the connections of a worker have in common.
struct Http {
    settings: Settings,
    http1: http1::Builder,
    http2: http2::Builder<LocalExecutor>,
}

impl Http {
    fn new(settings: Settings) -> Self {
        let (timeouts, limits) = (&settings.timeouts, &settings.limits);
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.request_head)
            .max_headers(limits.headers)
            .max_header_size(limits.head_bytes)
            .max_buf_size(limits.head_bytes.max(HYPER_MAX_BUF));
        let mut http2 = http2::Builder::new(LocalExecutor);
        http2
            .timer(TokioTimer::new())
            // A client that is gone without a word is found out by a ping that it does not answer.
            .keep_alive_interval(timeouts.request_head)
            .keep_alive_timeout(timeouts.request_head)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS);
        Self { settings, http1, http2 }
    }

    /// One connection, from what comes before HTTP to its end.
    async fn connection<S>(
        self: Rc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        service_for: Rc<impl Fn(Client) -> S>,
        drain: Drain,
    ) where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let _ = stream.set_nodelay(true); // only a matter of delay
        let timeouts = &self.settings.timeouts;
        let deadline = Instant::now() + timeouts.request_head;
        let mut client = Client { ip: peer.ip(), over_tls: false };
        if self.settings.proxy_protocol {
            let header = proxy_protocol::read(&mut stream);
            let Some(source) = self.opening(Refused::ProxyProtocol, header, deadline, &drain).await else {
                return;
            };
            client.ip = source.unwrap_or(client.ip);
        }
        let socket = Socket::new(stream, timeouts.idle_body);
        match &self.settings.tls {
            None => self.http(socket, service_for(client), deadline, &drain).await,
            // In a box: a connection in the clear must not have the room for both.
            Some(identity) => {
                Box::pin(async {
                    let handshake = identity.acceptor().accept(socket);
                    if let Some(stream) = self.opening(Refused::Tls, handshake, deadline, &drain).await {
                        let client = Client { over_tls: true, ..client };
                        self.http(stream, service_for(client), deadline, &drain).await;
                    }
                })
                .await;
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
            () = drain.begun() => return None,
        };
        let error = match opened {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(error)) => error,
            Err(late) => late.into(),
        };
        tracing::debug!(%error, reason = refused.label(), "a connection was refused");
        if let Some(counts) = &self.settings.counts {
            counts.refused(refused);
        }
        None
    }

    /// HTTP on a connection, to its end.
    async fn http<T, S>(&self, stream: T, service: S, deadline: Instant, drain: &Drain)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let service = Adapter(RefCell::new(service));
        let mut stream = Downstream::new(stream);
        let sniffed = tokio::select! {
            biased; // what was sent before the drain began is answered
            sniffed = timeout_at(deadline, stream.speaks_http2()) => sniffed,
            () = drain.begun() => return, // nothing was asked yet
        };
        let Ok(Ok(speaks_http2)) = sniffed else { return };
        let protocol = if speaks_http2 { Protocol::Http2 } else { Protocol::Http1 };
        let _open = self.settings.counts.clone().map(|counts| Open::new(counts, protocol));
        let stream = TokioIo::new(stream);
        let ended = if speaks_http2 {
            let connection = self.http2.serve_connection(stream, service);
            drain.watch(connection, http2::Connection::graceful_shutdown).await
        } else {
            let connection = self.http1.serve_connection(stream, service).with_upgrades();
            drain.watch(connection, http1::UpgradeableConnection::graceful_shutdown).await
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a user's connection ended with an error");
        }
    }
}

/// Counts a connection for as long as it is open.
struct Open {
    counts: Arc<Worker>,
    protocol: Protocol,
}

impl Open {
    fn new(counts: Arc<Worker>, protocol: Protocol) -> Self {
        counts.opened(protocol);
        Self { counts, protocol }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.closed(self.protocol);
    }
}

/// Makes a tower service one of hyper's. Our services are always ready, so that nothing has to be cloned.
struct Adapter<S>(RefCell<S>);

impl<S> hyper::service::Service<Request<Incoming>> for Adapter<S>
where
    S: Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.0.borrow_mut().call(request)
    }
}

/// Runs the tasks of an HTTP/2 connection on the worker that it belongs to.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        spawn_local(task);
    }
}
