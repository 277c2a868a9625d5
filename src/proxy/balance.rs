//! Choosing a dataserver.

use std::rc::Rc;
use std::task::{Context, Poll};

use http::Method;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use tokio::time::Instant;
use tower::Service;

use super::Worker;
use super::body::Body;
use super::error::Error;
use super::headers::is_grpc;
use super::pool::Upstream;
use super::retry::{Attempt, Failed, Tried};
use crate::config;
use crate::message::{Name, Response};
use crate::protocol::Protocol;

/// An attempt and who is to take it.
pub(super) struct Routed {
    pub(super) attempt: Attempt,
    pub(super) upstream: Rc<Upstream>,
    /// What it speaks.
    pub(super) protocol: Protocol,
}

/// A dataserver that may be chosen.
type Candidate = (Rc<Upstream>, Protocol);

/// Chooses a live dataserver that was not tried yet.
#[derive(Clone)]
pub(super) struct Balance<S> {
    inner: S,
    worker: Rc<Worker>,
}

impl<S> Balance<S> {
    pub(super) fn new(inner: S, worker: Rc<Worker>) -> Self {
        Self { inner, worker }
    }
}

impl Worker {
    fn choose(&self, now: Instant, tried: &Tried) -> Option<Candidate> {
        self.choose_but(now, &tried.ids).or_else(|| {
            let again = tried.again?;
            let others: Vec<_> = tried.ids.iter().copied().filter(|id| *id != again).collect();
            self.choose_but(now, &others)
        })
    }

    fn choose_but(&self, now: Instant, tried: &[u64]) -> Option<Candidate> {
        let first = self.pick(now, tried)?;
        match self.settings().balance {
            config::Balance::Random => Some(first),
            config::Balance::P2c => {
                let second = self.pick(now, tried)?;
                let less_loaded = second.0.counts.in_flight() < first.0.counts.in_flight();
                Some(if less_loaded { second } else { first })
            }
        }
    }

    fn pick(&self, now: Instant, tried: &[u64]) -> Option<Candidate> {
        let mut reader = self.registry.borrow_mut();
        let entry = reader.pick(now, &mut *self.rng.borrow_mut(), tried)?;
        Some((self.pool.upstream(entry, self.index), entry.protocol()))
    }

    fn choose_speaking(&self, protocol: Protocol, now: Instant, tried: &Tried) -> Option<Candidate> {
        let mut reader = self.registry.borrow_mut();
        let mut rng = self.rng.borrow_mut();
        let entry = reader.pick_speaking(protocol, now, &mut *rng, &tried.ids)?;
        Some((self.pool.upstream(entry, self.index), protocol))
    }
}

impl<S> Service<Attempt> for Balance<S>
where
    S: Service<Routed, Response = Response<Body>, Error = Box<Failed>>,
{
    type Response = Response<Body>;
    type Error = Box<Failed>;
    type Future = Chosen<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Box<Failed>>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, attempt: Attempt) -> Self::Future {
        let Some(mut chosen) = self.worker.choose(attempt.now, &attempt.tried) else {
            return Chosen::nobody(Error::NoDataserver, attempt.tried);
        };
        // HTTP/2 has no Upgrade (RFC 9113 §8.6).
        if chosen.1 == Protocol::H2c && attempt.request.headers().contains(Name::Upgrade) {
            match self.worker.choose_speaking(Protocol::Http1, attempt.now, &attempt.tried) {
                Some(other) => chosen = other,
                // Who was tried and failed could have: that says more.
                None if !attempt.tried.ids.is_empty() => {
                    return Chosen::nobody(Error::NoDataserver, attempt.tried);
                }
                None => return Chosen::nobody(Error::NoUpgrade, attempt.tried),
            }
        }
        // Most servers of gRPC speak nothing but HTTP/2; its calls are POSTs.
        if chosen.1 == Protocol::Http1
            && *attempt.request.method() == Method::POST
            && is_grpc(attempt.request.headers())
            && let Some(other) = self.worker.choose_speaking(Protocol::H2c, attempt.now, &attempt.tried)
        {
            chosen = other;
        }
        let (upstream, protocol) = chosen;
        if let Some(entry) = &attempt.tried.entry {
            entry.asks(&upstream);
        }
        Chosen::One { inner: self.inner.call(Routed { attempt, upstream, protocol }) }
    }
}

pin_project! {
    #[project = ChosenProj]
    pub(super) enum Chosen<F> {
        One { #[pin] inner: F },
        Nobody { failed: Option<Box<Failed>> },
    }
}

impl<F> Chosen<F> {
    fn nobody(error: Error, tried: Tried) -> Self {
        Self::Nobody { failed: Some(Failed::finally(error, tried)) }
    }
}

impl<F: Future<Output = Result<Response<Body>, Box<Failed>>>> Future for Chosen<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ChosenProj::One { inner } => inner.poll(cx),
            // Taken once; a future that is polled after its end has no promise to keep.
            ChosenProj::Nobody { failed } => {
                failed.take().map_or(Poll::Pending, |failed| Poll::Ready(Err(failed)))
            }
        }
    }
}
