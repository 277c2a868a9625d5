//! Sends the admin paths to the admin API and everything else straight into the proxy's stack.
//!
//! A thin switch and not a router: what is forwarded does not pay for a match that it never needs, and
//! axum's router would add `content-length: 0` to forwarded answers that have none.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tower::Service;

use crate::admin::Admin;
use crate::message::{Request, Response};
use crate::problem::problem;
use crate::proxy::{self, Body, Incoming};

/// Answers every path as the admin API does, on the control runtime: a scrape takes its time, and a
/// worker has none.
#[derive(Clone)]
pub(super) struct AdminOnly {
    /// And the control runtime. Shared by the connections of a thread, most of which never ask it anything.
    admin: Rc<(Admin, Handle)>,
    client: IpAddr,
}

impl AdminOnly {
    pub(super) fn new(admin: Rc<(Admin, Handle)>, client: IpAddr) -> Self {
        Self { admin, client }
    }
}

impl Service<Request<Incoming>> for AdminOnly {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AdminFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> AdminFuture {
        // Nothing there takes a body, and a user's belongs to this thread.
        let request = request.map(|_| axum::body::Body::empty()).into();
        let (admin, control) = &*self.admin;
        let answer = admin.clone().answer(self.client, request);
        AdminFuture { answer: AbortOnDropHandle::new(control.spawn(answer)) }
    }
}

/// An answer that is being made on the control runtime.
pub(super) struct AdminFuture {
    answer: AbortOnDropHandle<http::Response<axum::body::Body>>,
}

impl Future for AdminFuture {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match ready!(Pin::new(&mut self.answer).poll(cx)) {
            Ok(answer) => {
                use http_body_util::BodyExt;
                Response::from(answer).map(|body| Body::boxed(body.map_err(Into::into)))
            }
            Err(error) => {
                tracing::error!(%error, "an admin request failed");
                let status = http::StatusCode::INTERNAL_SERVER_ERROR;
                Response::from(problem(status, "Internal error", "the admin API failed"))
                    .map(Body::from_bytes)
            }
        }))
    }
}

/// The switch.
#[derive(Clone)]
pub(super) struct Switch<P> {
    proxy: P,
    admin: AdminOnly,
}

impl<P> Switch<P> {
    pub(super) fn new(proxy: P, admin: AdminOnly) -> Self {
        Self { proxy, admin }
    }
}

impl<P> Service<Request<Incoming>> for Switch<P>
where
    P: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = SwitchFuture<P::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        if !Admin::serves(request.uri().path()) {
            return SwitchFuture::Proxy { answer: self.proxy.call(request) };
        }
        match proxy::check(request) {
            Ok(request) => SwitchFuture::Admin { answer: self.admin.call(request) },
            Err(error) => SwitchFuture::Refused { error },
        }
    }
}

pin_project! {
    #[project = SwitchProj]
    pub(super) enum SwitchFuture<F> {
        Admin { answer: AdminFuture },
        Refused { error: proxy::Error },
        Proxy { #[pin] answer: F },
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for SwitchFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            SwitchProj::Admin { answer } => Pin::new(answer).poll(cx),
            SwitchProj::Refused { error } => Poll::Ready(Ok(error.response())),
            SwitchProj::Proxy { answer } => answer.poll(cx),
        }
    }
}
