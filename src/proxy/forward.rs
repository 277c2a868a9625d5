//! The exchange with one dataserver: a connection, the request, the head of the answer.

mod http1;
mod http2;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tower::Service;

use super::Worker;
use super::balance::Routed;
use super::body::Body;
use super::retry::Failed;
use crate::message::Response;
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
    /// Boxed: what `async fn` returns has no name. The layers above need no box.
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
