//! The exchange with a dataserver that speaks HTTP/1.1.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

use super::{is_framed_soundly, within};
use crate::proxy::Worker;
use crate::proxy::balance::Routed;
use crate::proxy::body::{Body, RequestBody, Stream, UpstreamBody};
use crate::proxy::connect;
use crate::proxy::error::Error;
use crate::proxy::pool::Lease;
use crate::proxy::retry::{Attempt, Failed};
use crate::registry::Failure;

pub(super) async fn exchange(
    worker: Rc<Worker>,
    Routed { attempt, upstream, .. }: Routed,
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
        let kept = upstream.http1.take_idle(now, timeouts.pool_idle);
        let was_kept = kept.is_some();
        let mut connection = match kept {
            Some(connection) => connection,
            None => match connect::http1(&worker, &upstream).await {
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
                let body = |body| {
                    let stream = Stream::new(body, false);
                    Body::from_upstream(UpstreamBody::new(stream, timeouts.idle_body, lease))
                };
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
            upstream.http1.close_all_idle();
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

async fn send(
    sender: &mut SendRequest<RequestBody>,
    mut request: Request<RequestBody>,
    response_head: Duration,
) -> Sent {
    let progress = request.body_mut().progress();
    let answer = pin!(sender.try_send_request(request));
    match within(response_head, progress.as_deref(), answer).await {
        Some(Ok(response)) => Sent::Answer(response),
        Some(Err(mut error)) => match error.take_message() {
            Some(request) => Sent::Unsent(request),
            None => Sent::Failed(error.into_error()),
        },
        None => Sent::TimedOut,
    }
}
