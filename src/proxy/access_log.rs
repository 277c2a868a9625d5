//! The access log: a line for each request, with all that was tried for it.
//!
//! Without `log.access` a request has no [`Entry`], and each place that would tell it something asks for it in vain.

mod entry;
mod line;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use pin_project_lite::pin_project;
use rand::Rng;
use tower::Service;

use super::body::Body;
use super::{Client, Incoming, Worker};
use crate::config;
use crate::lines::Lines;
use crate::message::{Request, Response};

pub(super) use entry::{Answering, Entry};

use line::Second;

/// A worker's access log.
pub(super) struct Log {
    lines: Lines,
    config: config::AccessLog,
    /// A line in the making.
    line: RefCell<Vec<u8>>,
    /// The last second that a line began in, as it is written.
    second: Cell<Second>,
}

impl Log {
    pub(super) fn new(lines: Lines, config: config::AccessLog) -> Self {
        Self { lines, config, line: RefCell::default(), second: Cell::default() }
    }

    /// The same, with lines that look otherwise.
    pub(super) fn written_as(&self, config: config::AccessLog) -> Self {
        Self::new(self.lines.clone(), config)
    }

    /// Writes the line of a request that has ended after so long.
    fn write(&self, entry: &Entry, took: Duration) {
        if !entry.failed() && self.config.one_in > 1 && rand::rng().random_range(0..self.config.one_in) > 0 {
            return;
        }
        let Ok(mut line) = self.line.try_borrow_mut() else { return };
        line.clear();
        let began = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        line::write(&mut line, entry, took, self.time(began), &self.config);
        self.lines.push(&line);
    }

    /// A time as it is written, of which most lines share all but the milliseconds.
    fn time(&self, time: SystemTime) -> line::Time {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if !self.second.get().is(since) {
            self.second.set(Second::of(since));
        }
        line::Time { second: self.second.get(), millis: since.subsec_millis() }
    }
}

/// Follows each request from its head to the end of its answer.
#[derive(Clone)]
pub(super) struct AccessLog<S> {
    inner: S,
    client: IpAddr,
    worker: Rc<Worker>,
}

impl<S> AccessLog<S> {
    pub(super) fn new(inner: S, client: Client, worker: Rc<Worker>) -> Self {
        Self { inner, client: client.ip, worker }
    }
}

impl<S> Service<Request<Incoming>> for AccessLog<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = AccessLogFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let log = self.worker.access_log.as_ref();
        let entry = log.map(|log| Rc::new(Entry::new(log.get(), self.client, &request)));
        request.body_mut().entry.clone_from(&entry);
        AccessLogFuture { inner: self.inner.call(request), entry }
    }
}

pin_project! {
    pub(super) struct AccessLogFuture<F> {
        #[pin]
        inner: F,
        entry: Option<Rc<Entry>>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for AccessLogFuture<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Without a log the answer is not even touched.
        if this.entry.is_none() {
            return this.inner.poll(cx);
        }
        let Ok(mut response) = ready!(this.inner.poll(cx));
        if let Some(entry) = this.entry.take() {
            let answering = Answering::new(entry, response.status());
            response.body_mut().tell(answering);
        }
        Poll::Ready(Ok(response))
    }
}
