//! A worker's connections to dataservers.

mod http1;
mod http2;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::addr::Addr;
use crate::http1::Upgraded;
use crate::registry::{Entry, Failure, Shard};
use crate::resolved::Resolved;

use super::body::Uploading;

pub(super) use http1::Connection as Http1Connection;
pub(super) use http2::{Connection as Http2Connection, Slot};

/// Every dataserver that this worker has had to do with, by the id of its entry.
pub(super) struct Pool {
    upstreams: RefCell<HashMap<u64, Rc<Upstream>>>,
    most_idle: Rc<Cell<usize>>,
}

/// One dataserver, as this worker knows it.
pub(super) struct Upstream {
    pub(super) id: u64,
    pub(super) addr: Addr,
    entry: Arc<Entry>,
    pub(super) resolved: Resolved,
    /// Idle connections that are kept at most.
    most_idle: Rc<Cell<usize>>,
    pub(super) counts: Arc<Shard>,
    pub(super) http1: http1::Connections,
    pub(super) http2: http2::Connections,
}

impl Pool {
    /// Keeps so many idle connections to each dataserver.
    pub(super) fn new(most_idle: usize) -> Self {
        Self { upstreams: RefCell::default(), most_idle: Rc::new(Cell::new(most_idle)) }
    }

    /// From now on so many; what is over it is closed at the next look.
    pub(super) fn set_most_idle(&self, most_idle: usize) {
        self.most_idle.set(most_idle);
    }

    /// No connection of HTTP/2 that is there now takes a request that comes after this.
    pub(super) fn retire_http2(&self) {
        self.upstreams.borrow().values().for_each(|upstream| upstream.http2.retire_all());
    }

    pub(super) fn upstream(&self, entry: &Arc<Entry>, worker: usize) -> Rc<Upstream> {
        let mut upstreams = self.upstreams.borrow_mut();
        let known = upstreams.entry(entry.id()).or_insert_with(|| {
            Rc::new(Upstream {
                id: entry.id(),
                addr: entry.addr().clone(),
                entry: entry.clone(),
                resolved: Resolved::default(),
                most_idle: self.most_idle.clone(),
                counts: entry.traffic().shard(worker),
                http1: http1::Connections::default(),
                http2: http2::Connections::default(),
            })
        });
        known.clone()
    }

    /// Closes what was idle for `limit` or leads to who has left, and forgets dataservers that there is nothing left of.
    pub(super) fn close_idle(&self, limit: Duration) {
        let now = Instant::now();
        self.upstreams.borrow_mut().retain(|_, upstream| {
            let limit = if upstream.entry.has_left() { Duration::ZERO } else { limit };
            upstream.http1.close_idle(now, limit, self.most_idle.get());
            upstream.http2.close_idle(now, limit);
            // What its name leads to may be the last that is known of it.
            let is_resolved = upstream.addr.socket_addr().is_none() && !upstream.entry.has_left();
            let is_connected = !upstream.http1.is_empty() || !upstream.http2.is_empty();
            is_resolved || is_connected || Rc::strong_count(upstream) > 1
        });
    }
}

impl Upstream {
    /// It answered with this status.
    pub(super) fn answered(&self, status: u16) {
        self.counts.answered(status);
        self.entry.answered(status);
    }

    /// It failed a request that it was given at `asked`, on a connection that was kept from one before or on a new one.
    pub(super) fn failed(&self, failure: Failure, was_kept: bool, asked: Instant) {
        self.counts.failed(failure);
        self.entry.failed(failure, was_kept, asked);
    }
}

/// What a request goes out on.
enum Held {
    Nothing,
    Http1(Http1Connection),
    /// Ends the use of the stream, and what is still sent on it, when it is dropped.
    Http2(#[expect(dead_code, reason = "kept for its end")] Rc<Slot>, Uploading),
}

/// A connection or a stream that is in use, and the count of that.
pub(super) struct Lease {
    upstream: Rc<Upstream>,
    since: Instant,
    held: Held,
}

impl Lease {
    /// Counts a request as under way at `upstream` until the lease is dropped.
    pub(super) fn new(upstream: Rc<Upstream>, since: Instant) -> Self {
        upstream.counts.begin();
        Self { upstream, since, held: Held::Nothing }
    }

    /// Whom the request went to, and since when.
    pub(super) fn timed(&self) -> Timed {
        Timed { upstream: self.upstream.clone(), since: self.since }
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The connection that the request went out on.
    pub(super) fn hold(&mut self, connection: Http1Connection) {
        self.held = Held::Http1(connection);
    }

    /// The stream that the request went out on.
    pub(super) fn hold_stream(&mut self, slot: Rc<Slot>, uploading: Uploading) {
        self.held = Held::Http2(slot, uploading);
    }

    /// Whether the user's own body failed, and with it the stream that the request went out on.
    pub(super) fn has_upload_failed(&self) -> bool {
        matches!(&self.held, Held::Http2(_, uploading) if uploading.has_failed())
    }

    /// The answer has ended: the connection is for the next request.
    pub(super) fn give_back(mut self) {
        if let Held::Http1(connection) = std::mem::replace(&mut self.held, Held::Nothing) {
            self.upstream.http1.give_back(connection, self.upstream.most_idle.get());
        }
    }

    /// The connection itself, after an answer that switched protocols.
    pub(super) fn upgraded(&self) -> Option<Upgraded> {
        match &self.held {
            Held::Http1(connection) => connection.client.upgraded(),
            Held::Nothing | Held::Http2(..) => None,
        }
    }
}

/// A request whose answer is to be timed.
pub(super) struct Timed {
    upstream: Rc<Upstream>,
    since: Instant,
}

impl Timed {
    /// The answer has ended.
    pub(super) fn ended(self, at: Instant) {
        self.upstream.counts.took(at.saturating_duration_since(self.since));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.upstream.counts.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Phase;
    use crate::protocol::Protocol;
    use crate::registry::{Beat, Registry, Settings};

    /// A dataserver to which no connection is kept has one looked up for each request.
    #[test]
    fn what_a_name_leads_to_is_not_forgotten_with_the_last_connection() {
        let (registry, pool) = (Registry::new(Settings::default()), Pool::new(1));
        let now = Instant::now();
        for addr in ["dataserver.example:1", "10.0.0.1:1"] {
            let addr: Addr = addr.parse().unwrap();
            let (protocol, phase) = (Protocol::Http1, Phase::Up);
            let beat = Beat { addr: &addr, protocol, phase, incarnation: None, sent: now, nsqd: "" };
            registry.record(&beat, now);
            pool.upstream(&registry.entry(&addr).unwrap(), 0);
        }
        pool.close_idle(Duration::ZERO);
        let left: Vec<_> = pool.upstreams.borrow().values().map(|left| left.addr.to_string()).collect();
        assert_eq!(left, ["dataserver.example:1"]);
        registry.expel(now, |_| Some(false));
        pool.close_idle(Duration::ZERO);
        assert!(pool.upstreams.borrow().is_empty());
    }
}
