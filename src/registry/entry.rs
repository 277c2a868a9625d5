//! One dataserver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::time::Instant;

use super::traffic::{Totals, Traffic};
use crate::addr::Addr;
use crate::protocol::Protocol;

/// A dataserver as the workers see it. Times are the registry's stamps.
pub struct Entry {
    id: u64,
    addr: Addr,
    joined: u64,
    last_heard: AtomicU64,
    heartbeats: AtomicU64,
    speaks_h2c: AtomicBool,
    traffic: Arc<Traffic>,
}

impl Entry {
    /// One that was not heard from yet.
    pub(super) fn new(id: u64, addr: Addr, joined: u64, traffic: Arc<Traffic>) -> Self {
        let (last_heard, heartbeats) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { id, addr, joined, last_heard, heartbeats, speaks_h2c: AtomicBool::new(false), traffic }
    }

    /// Never given twice, also not to a dataserver that comes back.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where its requests go.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }

    /// What it speaks, by its last heartbeat.
    pub fn protocol(&self) -> Protocol {
        if self.speaks_h2c.load(Ordering::Relaxed) { Protocol::H2c } else { Protocol::Http1 }
    }

    /// What came of the requests that were sent to it.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// NSQ reorders: an older heartbeat that arrives later changes nothing but the count.
    pub(super) fn hear(&self, sent: u64, protocol: Protocol) {
        let before = self.last_heard.fetch_max(sent, Ordering::Relaxed);
        if sent >= before {
            self.speaks_h2c.store(protocol == Protocol::H2c, Ordering::Relaxed);
        }
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_live(&self, oldest_live: u64) -> bool {
        self.last_heard() >= oldest_live
    }

    pub(super) fn last_heard(&self) -> u64 {
        self.last_heard.load(Ordering::Relaxed)
    }

    pub(super) fn joined(&self) -> u64 {
        self.joined
    }

    pub(super) fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    pub(super) fn view(&self, instant: impl Fn(u64) -> Instant) -> Dataserver {
        Dataserver {
            addr: self.addr.clone(),
            protocol: self.protocol(),
            joined: instant(self.joined),
            last_heard: instant(self.last_heard()),
            heartbeats: self.heartbeats(),
            totals: self.traffic.totals(),
        }
    }
}

/// A dataserver as people see it, at one moment.
#[derive(Debug, Clone)]
pub struct Dataserver {
    /// Where its requests go.
    pub addr: Addr,
    /// What it speaks.
    pub protocol: Protocol,
    /// When its first heartbeat came.
    pub joined: Instant,
    /// When it sent the last heartbeat that came.
    pub last_heard: Instant,
    /// How many heartbeats came.
    pub heartbeats: u64,
    /// What came of the requests that were sent to it.
    pub totals: Totals,
}
