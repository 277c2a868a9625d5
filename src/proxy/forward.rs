//! The exchange with one dataserver: a connection, the request, the head of the answer.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::Service;

use super::Worker;
use super::balance::Routed;
use super::body::{Body, RequestBody, UpstreamBody};
use super::error::Error;
use super::pool::{Connection, Lease, Sender, Upstream};
use super::retry::{Attempt, Failed};
use crate::addr::is_dialable;
use crate::registry::Failure;

/// hyper's own limit of its read buffer, which a larger head must fit into.
const HYPER_MAX_BUF: usize = 8192 + 4096 * 100;

/// Sends requests to the dataserver that was chosen.
#[derive(Clone)]
pub(super) struct Forward {
    worker: Rc<Worker>,
}

impl Forward {
    pub(super) fn new(worker: Rc<Worker>) -> Self {
        Self { worker }
    }
}

impl Service<Routed> for Forward {
    type Response = Response<Body>;
    type Error = Box<Failed>;
    /// Boxed: what hyper's client and `connect` return has no name. The layers above need no box.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Box<Failed>>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Box<Failed>>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        Box::pin(exchange(self.worker.clone(), routed))
    }
}

async fn exchange(
    worker: Rc<Worker>,
    Routed { attempt, upstream }: Routed,
) -> Result<Response<Body>, Box<Failed>> {
    let Attempt { mut request, mut tried, now } = attempt;
    if !request.headers().contains_key(header::HOST) {
        // Users of HTTP/1.0 and HTTP/2 may leave it out; towards a dataserver it must be there.
        request.headers_mut().insert(header::HOST, HeaderValue::from_static(""));
    }
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    let failed = |failure| {
        upstream.counts.failed(failure);
        Error::Upstream { addr: upstream.addr.clone(), failure }
    };
    let timeouts = &worker.settings.timeouts;
    let mut lease = Lease::new(upstream.clone(), timeouts.pool_idle);
    loop {
        let kept = upstream.take_idle(now, timeouts.pool_idle);
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => match connect(&worker, &upstream).await {
                Ok(connection) => connection,
                Err(failure) => {
                    tried.ids.push(upstream.id);
                    tried.again = tried.again.filter(|id| *id != upstream.id);
                    return Err(Box::new(Failed { error: failed(failure), unsent: Some(request), tried }));
                }
            },
        };
        let (error, unsent) = match send(&mut connection.sender, request, timeouts.response_head).await {
            Sent::Answer(response) if is_framed_soundly(&response, wants_upgrade) => {
                upstream.counts.answered(response.status().as_u16());
                lease.hold(connection);
                let body = |body| Body::from_upstream(UpstreamBody::new(body, timeouts.idle_body, lease));
                return Ok(response.map(body));
            }
            Sent::Unsent(unsent) if was_kept => {
                // It had been closed while it was idle: that is no fault of the dataserver, which may have
                // another connection or take a new one.
                request = unsent;
                continue;
            }
            Sent::Answer(_) => (failed(Failure::Protocol), None),
            Sent::Unsent(request) => (failed(Failure::Closed), Some(request)),
            Sent::TimedOut => (failed(Failure::HeadTimeout), None),
            Sent::Failed(error) => match failure_of(&error) {
                Some(failure) => (failed(failure), None),
                None => (Error::from_request_body(&error), None),
            },
        };
        tried.ids.push(upstream.id);
        if was_kept {
            // Its other connections were idle for longer: they have most likely ended, too.
            upstream.close_idle();
            tried.again = Some(upstream.id);
        }
        return Err(Box::new(Failed { error, unsent, tried }));
    }
}

/// How the dataserver failed an exchange; `None` if it was the user's body that ended it.
fn failure_of(error: &hyper::Error) -> Option<Failure> {
    match error {
        error if error.is_user() => None,
        error if error.is_parse() => Some(Failure::Protocol),
        _ => Some(Failure::Closed),
    }
}

enum Sent {
    Answer(Response<Incoming>),
    /// Nothing of it went out.
    Unsent(Request<RequestBody>),
    Failed(hyper::Error),
    TimedOut,
}

async fn send(sender: &mut Sender, mut request: Request<RequestBody>, response_head: Duration) -> Sent {
    let progress = request.body_mut().progress();
    let mut answer = pin!(sender.try_send_request(request));
    let mut wait = response_head;
    loop {
        match timeout(wait, answer.as_mut()).await {
            Ok(Ok(response)) => return Sent::Answer(response),
            Ok(Err(mut error)) => {
                return match error.take_message() {
                    Some(request) => Sent::Unsent(request),
                    None => Sent::Failed(error.into_error()),
                };
            }
            // The time counts from when the request was sent: an upload that moves may go on.
            Err(_) => match progress.as_ref().and_then(|progress| progress.time_left(response_head)) {
                Some(left) => wait = left,
                None => return Sent::TimedOut,
            },
        }
    }
}

/// A coding other than `chunked` hides where the answer ends (RFC 9112 §6.3), and so does a switch of
/// protocols that nobody asked for.
fn is_framed_soundly(response: &Response<Incoming>, wants_upgrade: bool) -> bool {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && !wants_upgrade {
        return false;
    }
    let mut codings = response.headers().get_all(header::TRANSFER_ENCODING).iter();
    match codings.next() {
        None => true,
        Some(coding) => coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none(),
    }
}

async fn connect(worker: &Worker, upstream: &Upstream) -> Result<Connection, Failure> {
    let within = worker.settings.timeouts.connect;
    let stream = timeout(within, dial(worker, upstream)).await.map_err(|_| Failure::ConnectTimeout)??;
    let _ = stream.set_nodelay(true); // only a matter of delay
    let limits = &worker.settings.limits;
    let (sender, connection) = http1::Builder::new()
        .max_headers(limits.headers)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(HYPER_MAX_BUF))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| Failure::Connect)?;
    let dataserver = upstream.addr.clone();
    let task = tokio::task::spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            // Whoever had a request on it hears of it in terms of that request.
            tracing::trace!(%dataserver, %error, "connection to a dataserver ended");
        }
    });
    Ok(Connection::new(sender, task.abort_handle()))
}

async fn dial(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    if let Some(target) = upstream.addr.socket_addr() {
        return TcpStream::connect(target).await.map_err(|_| Failure::Connect);
    }
    let resolved = tokio::net::lookup_host(upstream.addr.as_str()).await.map_err(|_| Failure::Resolve)?;
    // A name is no way around what is refused of an address.
    let may_dial = |target: &SocketAddr| is_dialable(target.ip()) && !worker.settings.own.contains(*target);
    let mut failure = Failure::Resolve;
    for target in resolved.filter(may_dial) {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(_) => failure = Failure::Connect,
        }
    }
    Err(failure)
}
