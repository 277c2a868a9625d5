//! The names of a request that others go by as well: its `X-Request-Id`, and its place in a trace (`traceparent` of W3C
//! Trace Context).
//!
//! The dataserver gets both, the user gets the id back, with the gateway's own errors too, and the access log has them.
//! What is no good is not passed on: others would write it into their logs.

mod request_id;
mod trace;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::HeaderValue;
use pin_project_lite::pin_project;
use rand::RngCore;
use tower::Service;

use super::body::Body;
use super::{Incoming, Worker};
use crate::config::Ids;
use crate::message::{Fields, Name, Request, Response};

/// The value of `X-Request-Id`. Shared: most requests have none, and should not have the room for one.
#[derive(Debug, Clone)]
pub(super) struct RequestId(Rc<HeaderValue>);

impl RequestId {
    pub(super) fn value(&self) -> &HeaderValue {
        &self.0
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.to_str().ok()
    }
}

/// Settles what a request is called.
#[derive(Clone)]
pub(super) struct Identify<S> {
    inner: S,
    worker: Rc<Worker>,
}

impl<S> Identify<S> {
    pub(super) fn new(inner: S, worker: Rc<Worker>) -> Self {
        Self { inner, worker }
    }
}

/// Sees to `X-Request-Id`, and returns what it is then.
fn settle_id(headers: &mut Fields, ids: Ids, rng: &mut impl RngCore) -> Option<RequestId> {
    if let Some(value) = headers.get(Name::XRequestId) {
        if headers.count(Name::XRequestId) == 1
            && request_id::is_good(value)
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            return Some(RequestId(Rc::new(value)));
        }
        headers.remove(Name::XRequestId);
    }
    if ids == Ids::Keep {
        return None;
    }
    let made = request_id::make(rng);
    headers.insert(Name::XRequestId, &made);
    Some(RequestId(Rc::new(made)))
}

/// Sees to `traceparent`, and to `tracestate`, which means nothing without it.
fn settle_trace(headers: &mut Fields, ids: Ids, rng: &mut impl RngCore) {
    if let Some(value) = headers.get(Name::Traceparent) {
        if headers.count(Name::Traceparent) == 1 && trace::is_good(value) {
            return;
        }
    } else if ids == Ids::Keep {
        return;
    }
    headers.remove(Name::Traceparent);
    headers.remove(Name::Tracestate);
    if ids == Ids::Make {
        headers.insert(Name::Traceparent, &trace::make(rng));
    }
}

impl<S> Service<Request<Incoming>> for Identify<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = IdentifyFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let settings = self.worker.settings();
        let mut rng = self.worker.rng.borrow_mut();
        let came = request.headers().len();
        settle_trace(request.headers_mut(), settings.traceparent, &mut *rng);
        let id = settle_id(request.headers_mut(), settings.request_id, &mut *rng);
        drop(rng);
        let made = request.headers().len().saturating_sub(came);
        request.body_mut().made = made;
        request.body_mut().id.clone_from(&id);
        IdentifyFuture { inner: self.inner.call(request), id }
    }
}

pin_project! {
    pub(super) struct IdentifyFuture<F> {
        #[pin]
        inner: F,
        id: Option<RequestId>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for IdentifyFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Most often there is none, and then the answer is not even touched.
        let Some(id) = this.id else { return this.inner.poll(cx) };
        let Ok(mut response) = ready!(this.inner.poll(cx));
        response.headers_mut().insert(Name::XRequestId, id.value());
        Poll::Ready(Ok(response))
    }
}

/// Random bytes as hexadecimal digits in lower case.
fn hexadecimal<const BYTES: usize>(rng: &mut impl RngCore, to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0; BYTES];
    rng.fill_bytes(&mut bytes);
    for byte in bytes {
        to.extend([byte >> 4, byte & 15].iter().filter_map(|digit| DIGITS.get(usize::from(*digit))));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&str, &str)]) -> Fields {
        let mut headers = Fields::new();
        for (name, value) in fields {
            headers.append_checked(name.as_bytes(), value.as_bytes());
        }
        headers
    }

    fn id(fields: &[(&str, &str)], ids: Ids) -> Option<String> {
        let mut headers = headers(fields);
        let id = settle_id(&mut headers, ids, &mut SmallRng::seed_from_u64(1));
        let id = id.map(|id| id.value().to_str().unwrap().to_owned());
        let passed_on: Vec<_> =
            headers.get_all(Name::XRequestId).map(|v| str::from_utf8(v).unwrap()).collect();
        assert_eq!(passed_on, id.iter().map(String::as_str).collect::<Vec<_>>());
        id
    }

    #[test]
    fn an_id_is_kept_if_it_is_good_and_else_made_or_removed() {
        let good = ("x-request-id", "7b4a-Z_1.~:/+=@");
        for ids in [Ids::Keep, Ids::Make] {
            assert_eq!(id(&[good], ids).as_deref(), Some(good.1));
        }
        let long = "x".repeat(129);
        for bad in [&[][..], &[("x-request-id", "a b")], &[good, good], &[("x-request-id", &long)]] {
            assert_eq!(id(bad, Ids::Keep), None, "{bad:?}");
            let made = id(bad, Ids::Make).unwrap();
            assert!(made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
        }
    }

    fn trace(fields: &[(&str, &str)], ids: Ids) -> Fields {
        let mut headers = headers(fields);
        settle_trace(&mut headers, ids, &mut SmallRng::seed_from_u64(1));
        headers
    }

    #[test]
    fn a_trace_goes_on_if_it_is_good_and_is_else_begun_or_not_mentioned() {
        let (good, state) = (("traceparent", TRACE), ("tracestate", "a=b"));
        for ids in [Ids::Keep, Ids::Make] {
            assert_eq!(trace(&[good, state], ids), headers(&[good, state]));
        }
        for bad in [&[("traceparent", "00-1-2-3"), state][..], &[good, good, state]] {
            assert!(trace(bad, Ids::Keep).is_empty(), "{bad:?}");
        }
        assert_eq!(trace(&[state], Ids::Keep), headers(&[state]), "nothing is looked for");
        for bad in [&[][..], &[state], &[good, good, state]] {
            let made = trace(bad, Ids::Make);
            assert_eq!(made.len(), 1, "{made:?}");
            assert!(trace::is_good(made.get(Name::Traceparent).unwrap()), "{made:?}");
        }
    }
}
