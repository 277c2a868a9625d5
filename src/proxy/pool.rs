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
use tokio::time::Instant;

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
    sender: Sender,
    since: Instant,
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
            idle.retain(|idle| !idle.sender.is_closed() && now.saturating_duration_since(idle.since) < limit);
            !idle.is_empty() || Rc::strong_count(upstream) > 1
        });
    }
}

impl Upstream {
    /// The connection that was used last, if it can still be used and was idle for less than `limit`.
    pub(super) fn take_idle(&self, limit: Duration) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some(Idle { sender, since }) = idle.pop() {
            if sender.is_ready() && now.saturating_duration_since(since) < limit {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        self.idle.borrow_mut().push(Idle {
            sender,
            since: Instant::now(),
        });
    }
}

/// A connection that is in use, and the count of that.
pub(super) struct Lease {
    upstream: Rc<Upstream>,
    sender: Option<Sender>,
}

impl Lease {
    /// Counts a request as under way at `upstream` until the lease is dropped.
    pub(super) fn new(upstream: Rc<Upstream>) -> Self {
        upstream.counts.begin();
        Self {
            upstream,
            sender: None,
        }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The connection that the request went out on.
    pub(super) fn hold(&mut self, sender: Sender) {
        self.sender = Some(sender);
    }

    /// The answer has ended: the connection is for the next request.
    pub(super) fn give_back(mut self) {
        let Some(mut sender) = self.sender.take() else {
            return;
        };
        if sender.is_ready() {
            self.upstream.keep(sender);
        } else if !sender.is_closed() {
            // The connection's task has yet to see that the answer has ended.
            let upstream = self.upstream.clone();
            tokio::task::spawn_local(async move {
                if sender.ready().await.is_ok() {
                    upstream.keep(sender);
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
