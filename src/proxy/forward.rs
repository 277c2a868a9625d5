//! The exchange with one dataserver: a connection, the request, the head of the answer.

mod http1;
mod http2;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::Service;

use super::Worker;
use super::balance::Routed;
use super::body::{Body, Progress};
use super::retry::Failed;
use crate::protocol::Protocol;

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
        // A future of its own for each: the larger one is not paid for by requests of the other.
        match routed.protocol {
            Protocol::Http1 => Box::pin(http1::exchange(self.worker.clone(), routed)),
            Protocol::H2c => Box::pin(http2::exchange(self.worker.clone(), routed)),
        }
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
