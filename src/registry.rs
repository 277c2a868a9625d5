//! Who is live: the map from address to entry, and a snapshot of it to pick from.
//!
//! The room does no I/O and spawns nothing. Heartbeats are [recorded](Registry::record) from the control
//! side; each worker holds a [`Reader`] and [picks](Reader::pick) from the last published snapshot: one load
//! and one index, however many dataservers there are. Liveness is a predicate on the entry, asked at every
//! pick; the [sweep](Registry::sweep) only cleans up, so a late one never sends a request to the dead.

mod entry;
mod reader;
mod traffic;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use tokio::sync::Notify;
use tokio::time::Instant;

pub use entry::{Dataserver, Entry};
pub use reader::Reader;
pub use traffic::{Failure, Shard, Totals, Traffic};

use crate::addr::Addr;
use crate::protocol::Protocol;

/// How long the counts of a dataserver that left are kept, so that they go on if it comes back.
pub const TRAFFIC_KEPT: Duration = Duration::from_secs(10 * 60);

/// Shortest time between two snapshots. Joins that come faster share one.
const PUBLISH_GAP: Duration = Duration::from_millis(10);

/// The stamp of the epoch, in nanoseconds: 13 days, so that what came before it has a stamp as well.
const EPOCH_STAMP: u64 = 1 << 50;

/// A cheap handle to the one live set of the process.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    /// What entries count their time from: an [`Instant`] does not fit into an atomic, nanoseconds do.
    epoch: Instant,
    ttl_nanos: AtomicU64,
    capacity: usize,
    entries: DashMap<Addr, Arc<Entry>>,
    /// The entries in the map; asking the map itself would lock each of its shards.
    len: AtomicUsize,
    next_id: AtomicU64,
    snapshot: ArcSwap<Vec<Arc<Entry>>>,
    changed: Notify,
    /// Counts of those that left; bounded by `capacity` and [`TRAFFIC_KEPT`].
    departed: Mutex<HashMap<Addr, (Instant, Arc<Traffic>)>>,
}

/// What a heartbeat did to the live set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The dataserver was not known: it is live from now on.
    Joined,
    /// It was known, and stays live.
    Refreshed,
    /// The heartbeat is older than the TTL: it says nothing about now.
    Stale,
    /// The dataserver is not known and the registry holds as many as it may.
    Full,
}

/// An entry that the sweep removed.
#[derive(Debug)]
pub struct Evicted {
    /// Whose.
    pub addr: Addr,
    /// How long it had been silent.
    pub silent_for: Duration,
    /// How long it had been known.
    pub known_for: Duration,
    /// How many heartbeats had been heard from it.
    pub heartbeats: u64,
}

impl Registry {
    /// An empty registry whose entries live for `ttl` after their last heartbeat and are at most `capacity`.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        let inner = Inner {
            epoch: Instant::now(),
            ttl_nanos: AtomicU64::new(nanos(ttl)),
            capacity,
            entries: DashMap::new(),
            len: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            snapshot: ArcSwap::default(),
            changed: Notify::new(),
            departed: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How long a silent dataserver stays live.
    pub fn ttl(&self) -> Duration {
        Duration::from_nanos(self.inner.ttl_nanos.load(Ordering::Relaxed))
    }

    /// Takes in a heartbeat that its dataserver sent at `sent`, which is not later than `now`.
    pub fn record(&self, addr: &Addr, protocol: Protocol, sent: Instant, now: Instant) -> Recorded {
        let inner = &*self.inner;
        if now.saturating_duration_since(sent) > self.ttl() {
            return Recorded::Stale;
        }
        let sent = inner.stamp(sent);
        if let Some(entry) = inner.entries.get(addr) {
            entry.hear(sent, protocol);
            return Recorded::Refreshed;
        }
        // Counted before it is inserted: two new ones at once must not both take the last place.
        if inner.len.fetch_add(1, Ordering::Relaxed) >= inner.capacity {
            inner.len.fetch_sub(1, Ordering::Relaxed);
            return Recorded::Full;
        }
        match inner.entries.entry(addr.clone()) {
            Slot::Occupied(slot) => {
                inner.len.fetch_sub(1, Ordering::Relaxed);
                slot.get().hear(sent, protocol);
                Recorded::Refreshed
            }
            Slot::Vacant(slot) => {
                let id = inner.next_id.fetch_add(1, Ordering::Relaxed);
                let traffic = inner.take_departed(addr);
                let entry = Entry::new(id, addr.clone(), inner.stamp(now), traffic);
                entry.hear(sent, protocol);
                slot.insert(Arc::new(entry));
                inner.changed.notify_one();
                Recorded::Joined
            }
        }
    }

    /// Removes the entries that are no longer live.
    pub fn sweep(&self, now: Instant) -> Vec<Evicted> {
        let inner = &*self.inner;
        let oldest_live = inner.oldest_live(now);
        let now_nanos = inner.stamp(now);
        let mut evicted = Vec::new();
        inner.departed().retain(|_, (since, _)| now.saturating_duration_since(*since) < TRAFFIC_KEPT);
        inner.entries.retain(|addr, entry| {
            if entry.is_live(oldest_live) {
                return true;
            }
            evicted.push(Evicted {
                addr: addr.clone(),
                silent_for: Duration::from_nanos(now_nanos.saturating_sub(entry.last_heard())),
                known_for: Duration::from_nanos(now_nanos.saturating_sub(entry.joined())),
                heartbeats: entry.heartbeats(),
            });
            // While its place in the map is still locked: a heartbeat that comes now finds one or the other.
            let mut departed = inner.departed();
            if departed.len() < inner.capacity && !entry.traffic().is_unused() {
                departed.insert(addr.clone(), (now, entry.traffic().clone()));
            }
            false
        });
        inner.len.fetch_sub(evicted.len(), Ordering::Relaxed);
        if !evicted.is_empty() {
            inner.changed.notify_one();
        }
        evicted
    }

    /// Publishes a snapshot after every change, for as long as it is polled. Changes that come while one
    /// is built or shortly after share the next, so that 100,000 joins do not cost 100,000 snapshots.
    pub async fn publish_changes(&self) {
        loop {
            self.inner.changed.notified().await;
            let begun = Instant::now();
            self.publish();
            // A large set takes long to copy: never more than a tenth of the time goes into that.
            tokio::time::sleep((begun.elapsed() * 9).max(PUBLISH_GAP)).await;
        }
    }

    /// Makes the present set the one that is picked from.
    pub fn publish(&self) {
        let snapshot: Vec<_> = self.inner.entries.iter().map(|slot| slot.value().clone()).collect();
        self.inner.snapshot.store(Arc::new(snapshot));
    }

    /// A view to pick from, for one worker.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// How many dataservers are live.
    pub fn live(&self, now: Instant) -> usize {
        let oldest_live = self.inner.oldest_live(now);
        self.inner.entries.iter().filter(|slot| slot.is_live(oldest_live)).count()
    }

    /// Every live dataserver, sorted by address.
    pub fn list(&self, now: Instant) -> Vec<Dataserver> {
        let oldest_live = self.inner.oldest_live(now);
        let live = self.inner.entries.iter().filter(|slot| slot.is_live(oldest_live));
        let mut list: Vec<_> = live.map(|slot| slot.view(|stamp| self.inner.instant(stamp))).collect();
        list.sort_unstable_by(|a, b| a.addr.cmp(&b.addr));
        list
    }

    /// One live dataserver.
    pub fn get(&self, addr: &Addr, now: Instant) -> Option<Dataserver> {
        let oldest_live = self.inner.oldest_live(now);
        let entry = self.inner.entries.get(addr).filter(|entry| entry.is_live(oldest_live))?;
        Some(entry.view(|stamp| self.inner.instant(stamp)))
    }

    /// Calls `visit` with the totals of each dataserver in the map that was ever sent a request.
    pub fn each_traffic(&self, mut visit: impl FnMut(&Addr, &Totals)) {
        for slot in &self.inner.entries {
            let totals = slot.traffic().totals();
            if totals.requests() + totals.failures() > 0 {
                visit(slot.key(), &totals);
            }
        }
    }
}

impl Inner {
    /// The time as a number that fits into an atomic. A heartbeat may have been sent before the epoch.
    fn stamp(&self, at: Instant) -> u64 {
        match at.checked_duration_since(self.epoch) {
            Some(after) => EPOCH_STAMP.saturating_add(nanos(after)),
            None => EPOCH_STAMP.saturating_sub(nanos(self.epoch.saturating_duration_since(at))),
        }
    }

    fn instant(&self, stamp: u64) -> Instant {
        let after = Duration::from_nanos(stamp.saturating_sub(EPOCH_STAMP));
        let before = Duration::from_nanos(EPOCH_STAMP.saturating_sub(stamp));
        (self.epoch + after).checked_sub(before).unwrap_or(self.epoch)
    }

    /// An entry heard before this is not live.
    fn oldest_live(&self, now: Instant) -> u64 {
        self.stamp(now).saturating_sub(self.ttl_nanos.load(Ordering::Relaxed))
    }

    fn take_departed(&self, addr: &Addr) -> Arc<Traffic> {
        self.departed().remove(addr).map(|(_, traffic)| traffic).unwrap_or_default()
    }

    fn departed(&self) -> MutexGuard<'_, HashMap<Addr, (Instant, Arc<Traffic>)>> {
        self.departed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
