//! What can go wrong with a request, and the answer that says so.
//!
//! The answer is `application/problem+json` (RFC 9457) with a `Proxy-Status` (RFC 9209), so that a machine can
//! tell the gateway's own 502 from a dataserver's.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderValue, StatusCode};
use pin_project_lite::pin_project;
use tower::Service;

use super::Incoming;
use super::access_log::Entry;
use super::body::{Body, BoxError, Stalled};
use super::headers::ALLOW;
use super::identify::RequestId;
use crate::addr::Addr;
use crate::http1;
use crate::message::{Name, Request, Response};
use crate::problem::problem_with;
use crate::registry::Failure;

/// Seconds a client is asked to wait when nobody is live. A dataserver that starts is live in less.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Why a request gets no dataserver's answer. Whose doing it is shows in the status: 4xx the user's, 502 and
/// 504 the dataserver's, 503 nobody's but the moment's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is not one that may be forwarded.
    #[error("{0}")]
    BadRequest(&'static str),
    /// It is not a request of HTTP/1.
    #[error(transparent)]
    Refused(#[from] http1::Refusal),
    /// The method is not for a gateway to forward.
    #[error("CONNECT and TRACE are not forwarded")]
    MethodNotAllowed,
    /// The user's own body broke off or broke the rules.
    #[error("the request's body broke off or is malformed")]
    RequestBody,
    /// The user's own body did not move.
    #[error("the request's body did not move in time")]
    RequestBodyStalled,
    /// `limits.in_flight` is reached.
    #[error("the gateway has as many requests under way as it may")]
    TooManyRequests,
    /// It went through this gateway before: a dataserver's address leads back here.
    #[error("the request went through this gateway before")]
    Loop,
    /// The request's head has more fields than `limits.headers`.
    #[error("the request has more fields than the gateway takes")]
    TooManyFields,
    /// There is no live dataserver, or each that was tried could not be reached.
    #[error("no dataserver is live")]
    NoDataserver,
    /// Another protocol is wanted, and every live dataserver speaks HTTP/2, which has no `Upgrade` (RFC 9113 §8.6).
    #[error("no dataserver is live that could switch protocols")]
    NoUpgrade,
    /// A dataserver failed.
    #[error("dataserver {addr}: {}", describe(*.failure))]
    Upstream {
        /// Which.
        addr: Addr,
        /// How.
        failure: Failure,
    },
}

impl Error {
    /// What was wrong with the body of the user's request, when that ended an exchange.
    pub(super) fn of_body(error: &BoxError) -> Self {
        if error.is::<Stalled>() { Self::RequestBodyStalled } else { Self::RequestBody }
    }

    /// Status, title, and the error type of RFC 9209 §2.3.
    fn terms(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest(_) | Self::RequestBody => {
                (StatusCode::BAD_REQUEST, "Bad request", "http_request_error")
            }
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", "http_request_denied")
            }
            Self::Refused(refusal) => (refusal.status(), refusal_title(*refusal), "http_request_error"),
            Self::RequestBodyStalled => {
                (StatusCode::REQUEST_TIMEOUT, "Request timeout", "http_request_error")
            }
            Self::TooManyRequests => {
                (StatusCode::SERVICE_UNAVAILABLE, "Too many requests under way", "connection_limit_reached")
            }
            Self::Loop => (StatusCode::LOOP_DETECTED, "Loop detected", "proxy_loop_detected"),
            Self::TooManyFields => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many fields", "http_request_error")
            }
            Self::NoDataserver => {
                (StatusCode::SERVICE_UNAVAILABLE, "No live dataserver", "destination_unavailable")
            }
            Self::NoUpgrade => (StatusCode::NOT_IMPLEMENTED, "Upgrade not possible", "http_upgrade_failed"),
            Self::Upstream { failure, .. } => match failure {
                Failure::Resolve => (StatusCode::BAD_GATEWAY, "Dataserver not found", "dns_error"),
                Failure::Connect => (StatusCode::BAD_GATEWAY, "Dataserver unreachable", "connection_refused"),
                Failure::ConnectTimeout => {
                    (StatusCode::GATEWAY_TIMEOUT, "Dataserver unreachable", "connection_timeout")
                }
                Failure::Closed => (StatusCode::BAD_GATEWAY, "Dataserver failed", "connection_terminated"),
                Failure::Lost => (StatusCode::GATEWAY_TIMEOUT, "Dataserver lost", "http_response_timeout"),
                Failure::HeadTimeout => {
                    (StatusCode::GATEWAY_TIMEOUT, "Dataserver too slow", "http_response_timeout")
                }
                Failure::NoSocket => {
                    (StatusCode::SERVICE_UNAVAILABLE, "Too many connections", "connection_limit_reached")
                }
                Failure::Refused => {
                    (StatusCode::SERVICE_UNAVAILABLE, "Dataserver busy", "connection_limit_reached")
                }
                Failure::Protocol | Failure::Body => {
                    (StatusCode::BAD_GATEWAY, "Dataserver failed", "http_protocol_error")
                }
            },
        }
    }

    /// The error type of RFC 9209 §2.3.
    pub(super) fn token(&self) -> &'static str {
        self.terms().2
    }

    /// The answer that says so.
    pub fn response(&self) -> Response<Body> {
        self.response_to(None)
    }

    /// As [`response`](Self::response), to a request that has this id.
    fn response_to(&self, id: Option<&str>) -> Response<Body> {
        let (status, title, token) = self.terms();
        let members = id.map(|id| ("request_id".to_owned(), id.into())).into_iter().collect();
        let mut response =
            Response::from(problem_with(status, title, &self.to_string(), members)).map(Body::from_bytes);
        let headers = response.headers_mut();
        let proxy_status = match self {
            // An address holds nothing that would have to be escaped in a structured field's string.
            Self::Upstream { addr, .. } => format!("nsq-gateway; error={token}; next-hop=\"{addr}\""),
            _ => format!("nsq-gateway; error={token}"),
        };
        if let Ok(value) = HeaderValue::try_from(proxy_status) {
            headers.insert(Name::ProxyStatus, &value);
        }
        match self {
            Self::NoDataserver | Self::TooManyRequests => {
                headers.insert(Name::RetryAfter, &RETRY_AFTER);
            }
            Self::MethodNotAllowed => {
                headers.insert(Name::Allow, &ALLOW);
            }
            // What follows on such a connection cannot be told from the rest of this request.
            Self::BadRequest(_) | Self::Refused(_) | Self::RequestBody | Self::RequestBodyStalled => {
                headers.insert(Name::Connection, &HeaderValue::from_static("close"));
            }
            Self::Loop | Self::TooManyFields | Self::NoUpgrade | Self::Upstream { .. } => {}
        }
        response
    }
}

fn refusal_title(refusal: http1::Refusal) -> &'static str {
    match refusal.status() {
        StatusCode::URI_TOO_LONG => "Target too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "Head too large",
        StatusCode::NOT_IMPLEMENTED => "Transfer coding not implemented",
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => "HTTP version not supported",
        StatusCode::REQUEST_TIMEOUT => "Request timeout",
        _ => "Bad request",
    }
}

fn describe(failure: Failure) -> &'static str {
    match failure {
        Failure::Resolve => "its name leads nowhere that may be dialled",
        Failure::Connect => "cannot be connected to",
        Failure::NoSocket => {
            "was not asked: the gateway has no file descriptor or port left for a connection"
        }
        Failure::ConnectTimeout => "cannot be connected to in time",
        Failure::Closed => "closed the connection before it answered",
        Failure::Lost => "was not heard from any more before it answered",
        Failure::HeadTimeout => "did not answer in time",
        Failure::Protocol => "did not answer in the HTTP that it announced",
        Failure::Body => "broke off its answer",
        Failure::Refused => "takes no more requests for now",
    }
}

pin_project! {
    /// The answer of a layer that refuses some requests and passes the others on.
    #[project = CheckedProj]
    pub(super) enum Checked<F> {
        Refused { error: Option<Error> },
        Answered { response: Option<Response<Body>> },
        Passed { #[pin] inner: F },
    }
}

impl<F> Checked<F> {
    pub(super) fn refused(error: Error) -> Self {
        Self::Refused { error: Some(error) }
    }

    /// There is nobody else to ask.
    pub(super) fn answered(response: Response<Body>) -> Self {
        Self::Answered { response: Some(response) }
    }

    pub(super) fn passed(inner: F) -> Self {
        Self::Passed { inner }
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for Checked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CheckedProj::Passed { inner } => inner.poll(cx),
            // Taken once; a future that is polled after its end has no promise to keep.
            CheckedProj::Refused { error } => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
            }
            CheckedProj::Answered { response } => {
                response.take().map_or(Poll::Pending, |response| Poll::Ready(Ok(response)))
            }
        }
    }
}

/// Turns every error into its answer.
#[derive(Clone)]
pub(super) struct Respond<S> {
    inner: S,
}

impl<S> Respond<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Request<Incoming>> for Respond<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Error>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = RespondFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let id = request.body_mut().id.take();
        let entry = request.body().entry.clone();
        RespondFuture { inner: self.inner.call(request), id, entry }
    }
}

pin_project! {
    pub(super) struct RespondFuture<F> {
        #[pin]
        inner: F,
        id: Option<RequestId>,
        entry: Option<Rc<Entry>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Error>>> Future for RespondFuture<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        Poll::Ready(Ok(ready!(this.inner.poll(cx)).unwrap_or_else(|error| {
            let id = this.id.as_ref().and_then(RequestId::as_str);
            tracing::debug!(request_id = id, %error, "request failed");
            if let Some(entry) = this.entry {
                entry.refused(&error);
            }
            error.response_to(id)
        })))
    }
}
