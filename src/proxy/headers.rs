//! What an intermediary must refuse, remove and add (RFC 9110 §7.6, RFC 9112 §3 and §6), both ways.

mod fields;
mod origin;
mod request;
mod response;
mod target;
mod via;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pin_project_lite::pin_project;
use tower::Service;

use super::Incoming;
use super::Worker;
use super::body::{Body, RequestBody};
use super::error::{Checked, Error};
use crate::message::{Request, Response};

pub(super) use fields::clean_trailers;
pub use fields::is_grpc;
pub(super) use target::ALLOW;
pub(super) use via::Via;

use origin::Origin;

/// Who sends the requests of a connection, and how.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The address of the other end, or what a PROXY protocol header says it is.
    pub ip: IpAddr,
    /// Whether this gateway ends a TLS connection.
    pub over_tls: bool,
}

/// Checks whom a request is for, as it is done for one that is forwarded.
///
/// # Errors
/// When that is in doubt.
pub fn check<B>(request: Request<B>) -> Result<Request<B>, Error> {
    let (mut head, body) = request.into_parts();
    target::settle(&mut head)?;
    Ok(Request::from_parts(head, body))
}

/// Checks and rewrites heads.
#[derive(Clone)]
pub(super) struct Headers<S> {
    inner: S,
    origin: Rc<Origin>,
    worker: Rc<Worker>,
}

impl<S> Headers<S> {
    pub(super) fn new(inner: S, client: Client, worker: Rc<Worker>) -> Self {
        let origin = Rc::new(Origin::new(client));
        Self { inner, origin, worker }
    }
}

impl<S> Service<Request<Incoming>> for Headers<S>
where
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = Checked<AnswerFuture<S::Future>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let settings = self.worker.settings();
        request::join_cookies(&mut head);
        // HTTP/1 counted its fields when it read them; hyper counts only the bytes of HTTP/2.
        if head.headers.len().saturating_sub(body.made) > settings.limits.headers {
            return Checked::refused(Error::TooManyFields);
        }
        let trailers = match request::rewrite(
            &mut head,
            &self.origin,
            &settings.trusted_proxies,
            &self.worker.fixed.via,
        ) {
            Ok(trailers) => trailers,
            Err(error) => return Checked::refused(error),
        };
        if target::is_for_us(&mut head) {
            return Checked::answered(target::options().map(|()| Body::from_bytes(Bytes::new())));
        }
        let request = Request::from_parts(head, RequestBody::new(body, settings.timeouts.idle_body));
        let inner = self.inner.call(request);
        Checked::passed(AnswerFuture { inner, trailers, worker: self.worker.clone() })
    }
}

/// What may become of an answer's trailers (RFC 9110 §6.5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trailers {
    /// The user speaks HTTP/2, or asked for them.
    Kept,
    /// The user would not understand them.
    Dropped,
}

pin_project! {
    pub(super) struct AnswerFuture<F> {
        #[pin]
        inner: F,
        trailers: Trailers,
        worker: Rc<Worker>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for AnswerFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        response::rewrite(&mut response, &this.worker.fixed.via);
        if *this.trailers == Trailers::Dropped {
            response.body_mut().drop_trailers();
        }
        Poll::Ready(Ok(response))
    }
}
