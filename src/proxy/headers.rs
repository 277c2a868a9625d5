//! What an intermediary must refuse, remove and add (RFC 9110 §7.6, RFC 9112 §3 and §6), both ways.

mod fields;
mod request;
mod response;
mod via;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::Service;

use super::Worker;
use super::body::{Body, RequestBody, Stream};
use super::error::{Checked, Error};

pub(super) use fields::{clean_trailers, is_grpc};
pub(super) use via::Via;

/// Who sends the requests of a connection.
#[derive(Clone)]
pub struct Client {
    forwarded_for: HeaderValue,
}

impl Client {
    /// The client at this address.
    pub fn new(ip: IpAddr) -> Self {
        let ip = ip.to_canonical().to_string();
        // An IP address is always a field value; "unknown" is RFC 7239's word for one that is not.
        let forwarded_for = HeaderValue::try_from(ip).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        Self { forwarded_for }
    }
}

/// Checks and rewrites heads.
#[derive(Clone)]
pub(super) struct Headers<S> {
    inner: S,
    client: Rc<Client>,
    worker: Rc<Worker>,
}

impl<S> Headers<S> {
    pub(super) fn new(inner: S, client: Client, worker: Rc<Worker>) -> Self {
        Self { inner, client: Rc::new(client), worker }
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
        let settings = &self.worker.settings;
        // hyper counts the fields of HTTP/1 itself, and only the bytes of HTTP/2.
        if head.headers.len() > settings.limits.headers {
            return Checked::refused(Error::TooManyFields);
        }
        let is_http2 = head.version == Version::HTTP_2;
        let trailers = match request::rewrite(&mut head, &body, &self.client, &settings.via) {
            Ok(trailers) => trailers,
            Err(error) => return Checked::refused(error),
        };
        let body = RequestBody::new(Stream::new(body, is_http2), settings.timeouts.idle_body);
        let inner = self.inner.call(Request::from_parts(head, body));
        Checked::passed(AnswerFuture { inner, trailers, worker: self.worker.clone() })
    }
}

/// What may become of an answer's trailers (RFC 9110 §6.5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trailers {
    /// The user speaks HTTP/2, where they are a part of every message.
    Native,
    /// The user speaks HTTP/1.1 and asked for them.
    Wanted,
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
        response::rewrite(&mut response, &this.worker.settings.via, *this.trailers);
        if *this.trailers == Trailers::Dropped {
            response.body_mut().drop_trailers();
        }
        // hyper lowers it for a user of HTTP/1.0, whose connection it would not keep open if it found that here.
        *response.version_mut() = Version::HTTP_11;
        Poll::Ready(Ok(response))
    }
}
