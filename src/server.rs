//! Connections from users: one listener per worker, the limits on connections, and a graceful end.
//!
//! HTTP/1 is [`http1`]'s, HTTP/2 is hyper's. `axum::serve` is used for neither: it hides the limits.

mod drain;
mod io;
mod listen;

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::config::{Limits, Timeouts};
use crate::http1::{self, Ending};
use crate::metrics::{Protocol, Worker};
use crate::proxy::{self, Body, Incoming};

pub use listen::bind;

use drain::Drain;
use io::Downstream;

/// The longest pause after the process ran out of file descriptors, or the like, before the next accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Streams that an HTTP/2 client may have open on one connection at once.
const MAX_STREAMS: u32 = 250;

/// How connections are served.
#[derive(Clone)]
pub struct Settings {
    /// `timeouts.request_head`, `timeouts.idle_body` and `timeouts.drain` matter here.
    pub timeouts: Timeouts,
    /// `limits.head_bytes` and `limits.headers` matter here.
    pub limits: Limits,
    /// One permit a connection, shared by all workers.
    pub connections: Arc<Semaphore>,
    /// The counts of the worker that serves; none for a listener that is not a worker's.
    pub counts: Option<Arc<Worker>>,
}

/// Accepts and serves until `stop`, then lets what is under way end within `timeouts.drain`. `service_for` makes
/// the service of a connection from its client's address. Must run where `spawn_local` works.
///
/// Returns how many connections were cut off because they did not end in time.
pub async fn serve<S>(
    listener: TcpListener,
    service_for: impl Fn(IpAddr) -> S,
    settings: Settings,
    stop: CancellationToken,
) -> usize
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let drain = Drain::default();
    let connections = TaskTracker::new();
    let http = Rc::new(Http::new(settings));
    let mut accept_failed = false;
    let start = |(stream, client, permit): Accepted| {
        let connection = http.clone().connection(stream, service_for(client.ip()), drain.clone());
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
    let (stream, client) = listener.accept().await?;
    let permit = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((stream, client, permit))
}

/// What the kernel has taken in and nobody has accepted yet, as far as there are places. Asked of the kernel
/// itself: tokio knows only what its last look at the listener told. Closes the listener.
fn accept_queued(listener: TcpListener, places: &Arc<Semaphore>) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    let Ok(listener) = listener.into_std() else { return accepted };
    while let Ok((stream, client)) = listener.accept() {
        let _ = stream.set_nonblocking(true); // or `from_std` refuses it, and it is closed
        let (Ok(stream), Ok(permit)) = (TcpStream::from_std(stream), places.clone().try_acquire_owned())
        else {
            break;
        };
        accepted.push((stream, client, permit));
    }
    accepted
}

/// What the connections of a worker have in common.
struct Http {
    settings: Settings,
    http2: http2::Builder<LocalExecutor>,
    scratch: Rc<http1::Scratch>,
}

impl Http {
    fn new(settings: Settings) -> Self {
        let (timeouts, limits) = (&settings.timeouts, &settings.limits);
        let mut http2 = http2::Builder::new(LocalExecutor);
        http2
            .timer(TokioTimer::new())
            // A client that is gone without a word is found out by a ping that it does not answer.
            .keep_alive_interval(timeouts.request_head)
            .keep_alive_timeout(timeouts.request_head)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS);
        Self { settings, http2, scratch: Rc::default() }
    }

    async fn connection<S>(self: Rc<Self>, stream: TcpStream, service: S, drain: Drain)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let _ = stream.set_nodelay(true); // only a matter of delay
        let timeouts = &self.settings.timeouts;
        let head_deadline = Instant::now() + timeouts.request_head;
        let mut stream = Downstream::new(stream, timeouts.idle_body);
        let sniffed = tokio::select! {
            biased; // what was sent before the drain began is answered
            sniffed = timeout_at(head_deadline, stream.speaks_http2()) => sniffed,
            () = drain.begun() => return, // nothing was asked yet
        };
        let Ok(Ok(speaks_http2)) = sniffed else { return };
        let protocol = if speaks_http2 { Protocol::Http2 } else { Protocol::Http1 };
        let _open = self.settings.counts.clone().map(|counts| Open::new(counts, protocol));
        if speaks_http2 {
            self.http2(stream, service, &drain).await;
        } else {
            self.http1(stream, service, &drain, head_deadline).await;
        }
    }

    async fn http1<S>(&self, mut stream: Downstream, mut service: S, drain: &Drain, head_deadline: Instant)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let (timeouts, limits) = (&self.settings.timeouts, &self.settings.limits);
        let head_limits = http1::Limits { bytes: limits.head_bytes, fields: limits.headers };
        let head_time = http1::HeadTime { first: head_deadline, next: timeouts.request_head };
        let call = move |request: Request<http1::Incoming>| {
            let answer = service.call(request.map(Incoming::Http1));
            async move {
                let Ok(answer) = answer.await;
                answer
            }
        };
        let refuse = |refusal: http1::Refusal| {
            tracing::debug!(%refusal, "refused what is no request");
            if let Some(counts) = &self.settings.counts {
                counts.refused(refusal.status().as_u16());
            }
            proxy::Error::from(refusal).response()
        };
        let seen = stream.take_seen();
        let connection =
            http1::serve(stream, seen, (head_limits, head_time), self.scratch.clone(), call, refuse);
        match drain.watch(connection, http1::Connection::graceful_shutdown).await {
            Some((stream, Ending::Close)) => drop(stream),
            Some((stream, Ending::Linger)) => stream.linger(timeouts.linger, limits.linger_bytes).await,
            Some((stream, Ending::Reset)) => stream.reset(),
            None => {}
        }
    }

    async fn http2<S>(&self, stream: Downstream, service: S, drain: &Drain)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
    {
        let service = Adapter(RefCell::new(service));
        let connection = self.http2.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = drain.watch(connection, http2::Connection::graceful_shutdown).await {
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

impl<S> hyper::service::Service<Request<hyper::body::Incoming>> for Adapter<S>
where
    S: Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<hyper::body::Incoming>) -> S::Future {
        self.0.borrow_mut().call(request.map(Incoming::Http2))
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
