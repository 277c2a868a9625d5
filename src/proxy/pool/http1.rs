//! HTTP/1 connections: each carries one request at a time.
//!
//! Last in, first out: under less load the oldest are left alone until they have been idle for too long, and
//! are closed from this side before the dataserver would close them under a request.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::Upstream;
use crate::proxy::body::RequestBody;

/// The idle ones to one dataserver. They are never more than the requests that were under way at once, which
/// `limits.in_flight` bounds.
#[derive(Default)]
pub(in crate::proxy) struct Connections {
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to a dataserver.
pub(in crate::proxy) struct Connection {
    pub(in crate::proxy) sender: SendRequest<RequestBody>,
    /// Of the task that reads and writes it.
    task: AbortHandle,
}

impl Connections {
    /// The connection that was used last, if it can still be used and was idle for less than `limit`.
    pub(in crate::proxy) fn take_idle(&self, now: Instant, limit: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if connection.sender.is_ready() && now.saturating_duration_since(since) < limit {
                return Some(connection);
            }
        }
        None
    }

    /// Closes every connection that is idle.
    pub(in crate::proxy) fn close_all_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    pub(super) fn close_idle(&self, now: Instant, limit: Duration) {
        self.idle.borrow_mut().retain(|idle| {
            !idle.connection.sender.is_closed() && now.saturating_duration_since(idle.since) < limit
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    fn keep(&self, connection: Connection) {
        self.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
    }
}

impl Connection {
    pub(in crate::proxy) fn new(sender: SendRequest<RequestBody>, task: AbortHandle) -> Self {
        Self { sender, task }
    }

    pub(super) fn give_back(mut self, upstream: &Rc<Upstream>, limit: Duration) {
        if self.sender.is_ready() {
            upstream.http1.keep(self);
        } else if !self.sender.is_closed() {
            let upstream = upstream.clone();
            tokio::task::spawn_local(async move {
                // Its task has yet to see that the answer has ended; or it still sends a request that was
                // answered early, and would hold on to it for as long as the user does.
                match timeout(limit, self.sender.ready()).await {
                    Ok(Ok(())) => upstream.http1.keep(self),
                    Ok(Err(_)) | Err(_) => self.task.abort(),
                }
            });
        }
    }
}
