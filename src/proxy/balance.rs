//! Choosing a dataserver.

use std::rc::Rc;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use tokio::time::Instant;
use tower::Service;

use super::Worker;
use super::body::Body;
use super::error::Error;
use super::pool::Upstream;
use super::retry::{Attempt, Failed, Tried};
use crate::config;

/// An attempt and who is to take it.
pub(super) struct Routed {
    pub(super) attempt: Attempt,
    pub(super) upstream: Rc<Upstream>,
}

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
    fn choose(&self, now: Instant, tried: &Tried) -> Option<Rc<Upstream>> {
        self.choose_but(now, &tried.ids).or_else(|| {
            let again = tried.again?;
            let others: Vec<_> = tried.ids.iter().copied().filter(|id| *id != again).collect();
            self.choose_but(now, &others)
        })
    }

    fn choose_but(&self, now: Instant, tried: &[u64]) -> Option<Rc<Upstream>> {
        let first = self.pick(now, tried)?;
        match self.settings.balance {
            config::Balance::Random => Some(first),
            config::Balance::P2c => {
                let second = self.pick(now, tried)?;
                let less_loaded = second.counts.in_flight() < first.counts.in_flight();
                Some(if less_loaded { second } else { first })
            }
        }
    }

    fn pick(&self, now: Instant, tried: &[u64]) -> Option<Rc<Upstream>> {
        let mut reader = self.registry.borrow_mut();
        let entry = reader.pick(now, &mut *self.rng.borrow_mut(), tried)?;
        Some(self.pool.upstream(entry, self.index))
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
        match self.worker.choose(attempt.now, &attempt.tried) {
            Some(upstream) => Chosen::One { inner: self.inner.call(Routed { attempt, upstream }) },
            None => Chosen::Nobody { tried: attempt.tried },
        }
    }
}

pin_project! {
    #[project = ChosenProj]
    pub(super) enum Chosen<F> {
        One { #[pin] inner: F },
        Nobody { tried: Tried },
    }
}

impl<F: Future<Output = Result<Response<Body>, Box<Failed>>>> Future for Chosen<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ChosenProj::One { inner } => inner.poll(cx),
            ChosenProj::Nobody { tried } => {
                let tried = std::mem::take(tried);
                Poll::Ready(Err(Box::new(Failed { error: Error::NoDataserver, unsent: None, tried })))
            }
        }
    }
}
