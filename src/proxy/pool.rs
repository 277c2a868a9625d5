//! A worker's connections to dataservers.
//!
//! Last in, first out: under less load the oldest are left alone until they have been idle for too long, and
//! are closed from this side before the dataserver would close them under a request.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::body::RequestBody;
use crate::addr::Addr;
use crate::registry::{Entry, Shard};

pub(super) type Sender = SendRequest<RequestBody>;

/// Every dataserver that this worker has had to do with, by the id of its entry.
#[derive(Default)]
pub(super) struct Pool {
    upstreams: RefCell<HashMap<u64, Rc<Upstream>>>,
}

/// One dataserver, as this worker knows it. Its idle connections are never more than the requests that were
/// under way at once, which `limits.in_flight` bounds.
pub(super) struct Upstream {
    pub(super) id: u64,
    pub(super) addr: Addr,
    pub(super) counts: Arc<Shard>,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to a dataserver.
pub(super) struct Connection {
    pub(super) sender: Sender,
    /// Of the task that reads and writes it.
    task: AbortHandle,
}

impl Connection {
    pub(super) fn new(sender: Sender, task: AbortHandle) -> Self {
        Self { sender, task }
    }
}

impl Pool {
    pub(super) fn upstream(&self, entry: &Entry, worker: usize) -> Rc<Upstream> {
        let mut upstreams = self.upstreams.borrow_mut();
        let known = upstreams.entry(entry.id()).or_insert_with(|| {
            Rc::new(Upstream {
                id: entry.id(),
                addr: entry.addr().clone(),
                counts: entry.traffic().shard(worker),
                idle: RefCell::default(),
            })
        });
        known.clone()
    }

    /// Closes what was idle for `limit`, and forgets dataservers that there is nothing left of.
    pub(super) fn close_idle(&self, limit: Duration) {
        let now = Instant::now();
        self.upstreams.borrow_mut().retain(|_, upstream| {
            let mut idle = upstream.idle.borrow_mut();
            idle.retain(|idle| {
                !idle.connection.sender.is_closed() && now.saturating_duration_since(idle.since) < limit
            });
            !idle.is_empty() || Rc::strong_count(upstream) > 1
        });
    }
}

impl Upstream {
    /// The connection that was used last, if it can still be used and was idle for less than `limit`.
    pub(super) fn take_idle(&self, now: Instant, limit: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { connection, since }) = idle.pop() {
            if connection.sender.is_ready() && now.saturating_duration_since(since) < limit {
                return Some(connection);
            }
        }
        None
    }

    /// Closes every connection that is idle.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    fn keep(&self, connection: Connection) {
        self.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
    }
}

/// A connection that is in use, and the count of that.
pub(super) struct Lease {
    upstream: Rc<Upstream>,
    connection: Option<Connection>,
    pool_idle: Duration,
}

impl Lease {
    /// Counts a request as under way at `upstream` until the lease is dropped. A connection that is given back
    /// has `pool_idle` to be ready for the next request.
    pub(super) fn new(upstream: Rc<Upstream>, pool_idle: Duration) -> Self {
        upstream.counts.begin();
        Self { upstream, connection: None, pool_idle }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The connection that the request went out on.
    pub(super) fn hold(&mut self, connection: Connection) {
        self.connection = Some(connection);
    }

    /// The answer has ended: the connection is for the next request.
    pub(super) fn give_back(mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if connection.sender.is_ready() {
            self.upstream.keep(connection);
        } else if !connection.sender.is_closed() {
            let (upstream, limit) = (self.upstream.clone(), self.pool_idle);
            tokio::task::spawn_local(async move {
                // Its task has yet to see that the answer has ended; or it still sends a request that was
                // answered early, and would hold on to it for as long as the user does.
                match timeout(limit, connection.sender.ready()).await {
                    Ok(Ok(())) => upstream.keep(connection),
                    Ok(Err(_)) | Err(_) => connection.task.abort(),
                }
            });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.counts.end();
    }
}
