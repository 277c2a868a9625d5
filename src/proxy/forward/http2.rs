//! The exchange with a dataserver that speaks HTTP/2.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::message::{Name, Request, Response, ends_with_head};
use crate::proxy::Worker;
use crate::proxy::balance::Routed;
use crate::proxy::body::{Body, Progress, RequestBody, Stream, Upload, UploadHandle, UpstreamBody};
use crate::proxy::error::Error;
use crate::proxy::headers::is_grpc;
use crate::proxy::pool::{Lease, Slot};
use crate::proxy::retry::{Attempt, Failed};
use crate::registry::Failure;

/// How often a dataserver may close a connection before it has taken the request off our hands.
const CONNECTIONS: usize = 3;

pub(super) async fn exchange(worker: Rc<Worker>, mut routed: Routed) -> Result<Response<Body>, Box<Failed>> {
    let Routed { attempt: Attempt { request, tried, now }, upstream, .. } = &mut routed;
    let mut body = std::mem::take(request.body_mut());
    let settings = worker.settings();
    let timeouts = &settings.timeouts;
    // Streams of gRPC may be still for as long as nothing happens that they tell of.
    let (idle, head_time) = if is_grpc(request.headers()) {
        (timeouts.idle_tunnel, timeouts.idle_tunnel)
    } else {
        (timeouts.idle_body, timeouts.response_head)
    };
    body.set_idle(idle);
    let mut lease = Lease::new(upstream.clone(), *now);
    let mut closed = 0;
    let (failure, unsent) = loop {
        let slot = match upstream.stream(&worker).await {
            Ok(slot) => slot,
            Err(failure) => break (failure, Some(body)),
        };
        let (target, fields) = match http2_head(request) {
            Ok(head) => head,
            Err(error) => return Err(Failed::finally(error, routed.attempt.tried)),
        };
        let (upload, handle) = Upload::new(body, slot.clone());
        let mut http2_request = http::Request::new(upload);
        *http2_request.method_mut() = request.method().clone();
        *http2_request.uri_mut() = target;
        *http2_request.headers_mut() = fields;
        match send(&slot, http2_request, &handle, head_time).await {
            Sent::Answer(response) if is_sound(&response, settings.limits.headers) => {
                let progress = handle.progress();
                let is_whole = ends_with_head(request.method() == Method::HEAD, response.status());
                let (head, body) = response.into_parts();
                // Some programs send a body all the same.
                let mut stream = if is_whole { Stream::Nothing } else { Stream::http2(body) };
                let ended = within(head_time, progress.as_deref(), pin!(stream.end_of_nothing())).await;
                match ended {
                    Some(Ok(())) => {
                        upstream.answered(head.status.as_u16());
                        lease.hold_stream(slot, handle.answered());
                        let body = UpstreamBody::new(stream, idle, lease, progress);
                        return Ok(http::Response::from_parts(head, Body::from_upstream(body)).into());
                    }
                    Some(Err(_)) => {
                        if let Some(error) = handle.failure() {
                            return Err(Failed::finally(error, routed.attempt.tried));
                        }
                        break (Failure::Protocol, None);
                    }
                    None => break (Failure::HeadTimeout, None),
                }
            }
            Sent::Answer(_) => break (Failure::Protocol, None),
            Sent::TimedOut => {
                // Whether the dataserver or the way to it is gone cannot be told: later requests find out anew.
                upstream.http2.retire(&slot);
                break (Failure::HeadTimeout, None);
            }
            Sent::Failed(failure) => {
                if let Some(error) = handle.failure() {
                    return Err(Failed::finally(error, routed.attempt.tried));
                }
                // It may only have ended that connection, and be worth another try when nobody else is left.
                let is_of_connection = matches!(failure, Failure::Closed | Failure::Lost);
                tried.again = is_of_connection.then_some(upstream.id).or(tried.again);
                break (failure, None);
            }
            Sent::Refused => break (Failure::Refused, handle.take_back()),
            Sent::Closed => {
                upstream.http2.retire(&slot);
                closed += 1;
                match handle.take_back() {
                    // A dataserver may end its connections whenever it likes; it takes new ones.
                    Some(back) if closed < CONNECTIONS => body = back,
                    back => break (Failure::Closed, back),
                }
            }
        }
    };
    Err(if let Some(body) = unsent {
        *request.body_mut() = body;
        Failed::unsent(routed, failure)
    } else {
        Failed::sent(routed, failure)
    })
}

/// The target and the fields that an HTTP/2 request has instead (RFC 9113 §8.2.2, §8.3.1).
fn http2_head(request: &Request<RequestBody>) -> Result<(Uri, HeaderMap), Error> {
    const LEFT_OUT: [HeaderName; 4] =
        [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::HOST];
    let headers = request.headers();
    let mut fields = HeaderMap::from(headers);
    for name in LEFT_OUT {
        fields.remove(name);
    }
    let host = headers.get(Name::Host).filter(|host| !host.is_empty());
    // Without a host h2 makes it a request of HTTP/1.0, which has no `:authority`.
    let Some(host) = host else { return Ok((request.uri().clone(), fields)) };
    let mut target = request.uri().clone().into_parts();
    let authority = Authority::try_from(host);
    target.authority = Some(authority.map_err(|_| Error::BadRequest("the Host is not one"))?);
    target.scheme = Some(Scheme::HTTP);
    let target = Uri::from_parts(target).map_err(|_| Error::BadRequest("the target is not a path"))?;
    Ok((target, fields))
}

enum Sent {
    Answer(http::Response<Incoming>),
    /// The dataserver has not processed it, and takes no more for now.
    Refused,
    /// The connection has ended before the dataserver processed it.
    Closed,
    Failed(Failure),
    TimedOut,
}

async fn send(
    slot: &Slot,
    request: http::Request<Upload>,
    upload: &UploadHandle,
    response_head: Duration,
) -> Sent {
    let mut sender = slot.sender();
    let answer = pin!(sender.try_send_request(request));
    match within(response_head, upload.progress().as_deref(), answer).await {
        Some(Ok(response)) => Sent::Answer(response),
        Some(Err(error)) if error.message().is_some() => Sent::Closed,
        Some(Err(error)) => what_failed(error.error()),
        None => Sent::TimedOut,
    }
}

/// Waits for the head of an answer; `None` if it did not come in time. The time counts from when the request was sent:
/// an upload that moves may go on.
async fn within<T>(
    response_head: Duration,
    progress: Option<&Progress>,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut wait = response_head;
    loop {
        match timeout(wait, answer.as_mut()).await {
            Ok(answer) => return Some(answer),
            Err(_) => wait = progress?.time_left(response_head)?,
        }
    }
}

fn what_failed(error: &hyper::Error) -> Sent {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Sent::Failed(Failure::Lost);
        }
        if let Some(error) = inner.downcast_ref::<h2::Error>() {
            return match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) if error.is_reset() && error.is_remote() => Sent::Refused,
                // h2 gives a GOAWAY only to streams above its last id, which were not processed (RFC 9113 §6.8).
                _ if error.is_go_away() && error.is_remote() => Sent::Closed,
                // h2 resets the stream of a malformed answer, or ends the connection: for what may have come on another.
                _ if error.is_library() && error.is_reset() => Sent::Failed(Failure::Protocol),
                _ => Sent::Failed(Failure::Closed),
            };
        }
        source = inner.source();
    }
    // What waited for a stream when the connection ended is dropped by hyper, which blames its user for that.
    if error.is_user() { Sent::Closed } else { Sent::Failed(Failure::Closed) }
}

/// hyper counts the bytes of an HTTP/2 head, not its fields; there is no 101 (RFC 9113 §8.6).
fn is_sound(response: &http::Response<Incoming>, most_fields: usize) -> bool {
    response.version() == Version::HTTP_2
        && response.headers().len() <= most_fields
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
        && !response.headers().contains_key(header::TRANSFER_ENCODING)
}
