//! HTTP/2 connections: each carries many requests at once, as streams.
//!
//! hyper would queue what is over the peer's limit of streams without a bound and without a word. So streams are
//! counted here, a request gets a [`Slot`] or none, and nothing queues.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::proxy::Worker;
use crate::proxy::body::Upload;
use crate::proxy::connect::{self, Driver, LocalExecutor};
use crate::registry::Failure;

/// Streams on one connection at most, also where the peer allows more: a lost packet holds all of them up.
const MAX_STREAMS: usize = 128;

/// Those to one dataserver that may take requests.
#[derive(Default)]
pub(in crate::proxy) struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    /// The one that is being opened. Everybody waits for it who needs a new one: a burst opens few.
    opening: RefCell<Option<Opening>>,
}

type Opening = watch::Receiver<Option<Result<(), Failure>>>;

/// A connection to a dataserver. It ends when nobody holds it any more and its streams have ended.
pub(in crate::proxy) struct Connection {
    sender: SendRequest<Upload>,
    /// Asked how many streams the peer allows, which may change.
    driver: Rc<Driver>,
    executor: LocalExecutor,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// The right to one stream, until it is dropped.
pub(in crate::proxy) struct Slot {
    connection: Rc<Connection>,
}

impl Connection {
    pub(in crate::proxy) fn new(
        sender: SendRequest<Upload>,
        driver: Rc<Driver>,
        executor: LocalExecutor,
    ) -> Self {
        Self { sender, driver, executor, streams: Cell::new(0), idle_since: Cell::new(Instant::now()) }
    }

    /// Streams that it may carry; 0 before the peer has said how many.
    pub(in crate::proxy) fn max_streams(&self) -> usize {
        self.driver.max_streams().min(MAX_STREAMS)
    }

    pub(in crate::proxy) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Slot {
    fn new(connection: Rc<Connection>) -> Rc<Self> {
        connection.streams.set(connection.streams.get() + 1);
        Rc::new(Self { connection })
    }

    /// What runs the tasks of its connection.
    pub(in crate::proxy) fn executor(&self) -> &LocalExecutor {
        &self.connection.executor
    }

    /// What to send one request with.
    pub(in crate::proxy) fn sender(&self) -> SendRequest<Upload> {
        self.connection.sender.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let streams = self.connection.streams.get().saturating_sub(1);
        self.connection.streams.set(streams);
        if streams == 0 {
            self.connection.idle_since.set(Instant::now());
        }
    }
}

impl Connections {
    /// A stream on the oldest connection that has one: the youngest are left to become idle.
    fn free(&self) -> Option<Rc<Slot>> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.is_closed());
        let free = open.iter().find(|connection| connection.streams.get() < connection.max_streams());
        free.cloned().map(Slot::new)
    }

    /// The connection takes no more requests, and ends with those that it has.
    pub(in crate::proxy) fn retire(&self, slot: &Slot) {
        self.open.borrow_mut().retain(|connection| !Rc::ptr_eq(connection, &slot.connection));
    }

    /// None of them takes more requests.
    pub(super) fn retire_all(&self) {
        self.open.borrow_mut().clear();
    }

    pub(super) fn close_idle(&self, now: Instant, limit: Duration) {
        self.open.borrow_mut().retain(|connection| {
            let idle = now.saturating_duration_since(connection.idle_since.get());
            !connection.is_closed() && (connection.streams.get() > 0 || idle < limit)
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }
}

impl Upstream {
    /// A stream to send a request on, within `timeouts.connect`.
    ///
    /// # Errors
    /// When there is none and no connection can be opened; [`Failure::Refused`] when there may be no more of them.
    pub(in crate::proxy) async fn stream(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<Rc<Slot>, Failure> {
        if let Some(slot) = self.http2.free() {
            return Ok(slot);
        }
        let within = worker.settings().timeouts.connect;
        timeout(within, self.new_stream(worker)).await.unwrap_or(Err(Failure::ConnectTimeout))
    }

    async fn new_stream(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<Rc<Slot>, Failure> {
        loop {
            let mut opening = self.opening(worker)?;
            let opened = match opening.wait_for(Option::is_some).await {
                Ok(opened) => *opened,
                Err(_) => None, // its task is gone
            };
            opened.unwrap_or(Err(Failure::Connect))?;
            // Others waited, too, and may have taken all that there was.
            if let Some(slot) = self.http2.free() {
                return Ok(slot);
            }
        }
    }

    /// The connection that is being opened. In a task of its own: whoever asked for it first may leave.
    fn opening(self: &Rc<Self>, worker: &Rc<Worker>) -> Result<Opening, Failure> {
        if let Some(opening) = &*self.http2.opening.borrow() {
            return Ok(opening.clone());
        }
        if self.http2.open.borrow().len() >= worker.settings().limits.h2c_connections {
            return Err(Failure::Refused);
        }
        let (ended, opening) = watch::channel(None);
        self.http2.opening.replace(Some(opening.clone()));
        let (upstream, worker) = (self.clone(), worker.clone());
        spawn_local(async move {
            let within = worker.settings().timeouts.connect;
            let opened = timeout(within, connect::http2(&worker, &upstream)).await;
            let opened = opened.unwrap_or(Err(Failure::ConnectTimeout));
            let opened = opened.map(|connection| upstream.http2.open.borrow_mut().push(connection));
            upstream.http2.opening.take();
            ended.send_replace(Some(opened));
        });
        Ok(opening)
    }
}
