//! The exchange with a dataserver that speaks HTTP/1.1.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};

use http::{HeaderValue, StatusCode};
use http_body::Body as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http1;
use crate::message::{Name, Request, Response};
use crate::proxy::balance::Routed;
use crate::proxy::body::{Body, Progress, RequestBody, Stream, UpstreamBody};
use crate::proxy::connect;
use crate::proxy::error::Error;
use crate::proxy::pool::{Http1Connection, Lease};
use crate::proxy::retry::{Attempt, Failed};
use crate::proxy::{Settings, Worker};
use crate::registry::Failure;

#[expect(clippy::manual_async_fn, reason = "an async fn has room for each of its arguments twice")]
pub(super) fn exchange(
    worker: Rc<Worker>,
    mut routed: Routed,
) -> impl Future<Output = Result<Response<Body>, Box<Failed>>> {
    async move {
        // Where it is: a future has the room for whatever is moved in it twice.
        let Routed { attempt: Attempt { request, tried, now }, upstream, .. } = &mut routed;
        if !request.headers().contains(Name::Host) {
            // Users of HTTP/1.0 and HTTP/2 may leave it out; towards a dataserver it must be there.
            request.headers_mut().append(Name::Host, &HeaderValue::from_static(""));
        }
        let wants_upgrade = request.headers().contains(Name::Upgrade);
        if says_nothing_comes(request.body()) {
            if let Err(error) = end_of_nothing(request.body_mut()).await {
                return Err(Failed::finally(error, routed.attempt.tried));
            }
            *now = Instant::now();
        }
        let settings = worker.settings();
        let timeouts = &settings.timeouts;
        let mut lease = Lease::new(upstream.clone(), *now);
        loop {
            let kept = upstream.http1.take_idle(*now, timeouts.pool_idle);
            let was_kept = kept.is_some();
            let mut connection = match kept {
                Some(connection) => connection,
                None => match Box::pin(connect::http1(&worker, upstream)).await {
                    Ok(connection) => connection,
                    Err(failure) => {
                        tried.again = tried.again.filter(|id| *id != upstream.id);
                        return Err(Failed::unsent(routed, failure));
                    }
                },
            };
            let length = request.body().size_hint().exact();
            let limit = (!connect::may_have_no_room(length)).then_some(timeouts.unacknowledged);
            connection.limit_unacknowledged(limit);
            let asked = if was_kept { *now } else { Instant::now() };
            let progress = request.body_mut().progress();
            let sent = send(&mut connection, request, progress.as_deref(), &settings, asked);
            let no_answer = match sent.await {
                // Nobody asked for another protocol.
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !wants_upgrade => {
                    NoAnswer::Malformed
                }
                Ok(response) => {
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        // What is sent in a tunnel may be read whenever its dataserver likes.
                        connection.limit_unacknowledged(None);
                    }
                    upstream.answered(response.status().as_u16());
                    routed.attempt.request.into_parts().0.recycle();
                    lease.hold(connection);
                    return Ok(response.map(|body| {
                        Body::from_upstream(UpstreamBody::new(
                            Stream::Answer(body),
                            timeouts.idle_body,
                            lease,
                            progress,
                        ))
                    }));
                }
                Err(no_answer) => no_answer,
            };
            if was_kept {
                // Its other connections were idle for longer: they have most likely ended, too.
                upstream.http1.close_all_idle();
                tried.again = Some(upstream.id);
            }
            return Err(match no_answer {
                // It had been closed while it was idle: that is no fault of the dataserver, which may take a new one.
                NoAnswer::Unsent if was_kept => continue,
                NoAnswer::Unsent => Failed::unsent(routed, Failure::Closed),
                // Also if it is malformed: it may have been the rest of the answer before.
                NoAnswer::Closed | NoAnswer::Malformed if was_kept => {
                    Failed::sent_on_kept(routed, Failure::Closed)
                }
                // Something between here and there may have forgotten the connection.
                NoAnswer::Lost if was_kept => Failed::sent_on_kept(routed, Failure::Lost),
                NoAnswer::Lost => Failed::sent(routed, Failure::Lost),
                NoAnswer::Closed => Failed::sent(routed, Failure::Closed),
                NoAnswer::Malformed => Failed::sent(routed, Failure::Protocol),
                NoAnswer::TimedOut => Failed::sent(routed, Failure::HeadTimeout),
                NoAnswer::User(error) => Failed::finally(error, routed.attempt.tried),
            });
        }
    }
}

/// A user of HTTP/2 can say that its body has no bytes and yet send some. A request without a body is whole at once, so
/// that nothing of it may go out before that is settled.
fn says_nothing_comes(body: &RequestBody) -> bool {
    body.size_hint().exact() == Some(0) && !body.is_end_stream()
}

async fn end_of_nothing(body: &mut RequestBody) -> Result<(), Error> {
    while says_nothing_comes(body) {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            Some(Err(error)) => return Err(Error::of_body(&error)),
            Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.is_empty()) => {
                return Err(Error::RequestBody);
            }
            Some(Ok(_)) | None => {}
        }
    }
    Ok(())
}

/// Why there is no answer.
enum NoAnswer {
    /// Nothing of the request went out.
    Unsent,
    Closed,
    Lost,
    Malformed,
    TimedOut,
    /// It was the user's body that ended the exchange.
    User(Error),
}

/// Waits for the head of an answer within `timeouts.response_head` of when the request was sent: an upload that moves
/// may go on.
async fn send(
    connection: &mut Http1Connection,
    request: &mut Request<RequestBody>,
    progress: Option<&Progress>,
    settings: &Settings,
    asked: Instant,
) -> Result<Response<http1::Answer<TcpStream>>, NoAnswer> {
    let Settings { timeouts, limits, .. } = settings;
    let limit = timeouts.response_head;
    let head_limits = http1::Limits { bytes: limits.head_bytes, fields: limits.headers };
    let Http1Connection { client, alarm, .. } = connection;
    alarm.set(asked + limit);
    let failed = {
        let mut answer = pin!(client.exchange(request, head_limits, timeouts.expect_continue));
        let answer = poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            loop {
                ready!(alarm.poll(cx));
                match progress.and_then(|progress| progress.time_left(limit)) {
                    Some(left) => alarm.set(Instant::now() + left),
                    None => return Poll::Ready(None),
                }
            }
        });
        match answer.await {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(failed)) => failed,
            None => return Err(NoAnswer::TimedOut),
        }
    };
    Err(match (failed.error, failed.unsent) {
        (http1::Error::Body(error), _) => NoAnswer::User(Error::of_body(&error)),
        (http1::Error::BodyLength, _) => NoAnswer::User(Error::RequestBody),
        (_, Some(read)) => {
            request.body_mut().put_back(read);
            NoAnswer::Unsent
        }
        (http1::Error::Closed, None) => NoAnswer::Closed,
        (http1::Error::Lost, None) => NoAnswer::Lost,
        (http1::Error::Malformed(malformed), None) => {
            tracing::debug!(error = %malformed, "a dataserver's answer is none");
            NoAnswer::Malformed
        }
    })
}
