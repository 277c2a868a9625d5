//! Picking a live dataserver.

use std::sync::Arc;

use arc_swap::Cache;
use rand::Rng;
use tokio::time::Instant;

use super::{Entry, Inner, Registry};
use crate::protocol::Protocol;

/// Random tries before every entry is looked at. Between two sweeps at most a few entries have expired,
/// so that the first try nearly always finds a live one.
const TRIES: usize = 8;

/// One worker's view of the live set. It keeps the snapshot it saw last and asks with a single load
/// whether there is a newer one, so that a pick touches no count shared between cores.
pub struct Reader {
    registry: Registry,
    snapshot: Cache<Handle, Arc<Vec<Arc<Entry>>>>,
}

/// Lets the cache hold the registry and see the snapshot in it.
struct Handle(Arc<Inner>);

impl std::ops::Deref for Handle {
    type Target = arc_swap::ArcSwap<Vec<Arc<Entry>>>;

    fn deref(&self) -> &Self::Target {
        &self.0.snapshot
    }
}

impl Reader {
    pub(super) fn new(registry: Registry) -> Self {
        let snapshot = Cache::new(Handle(registry.inner.clone()));
        Self { registry, snapshot }
    }

    /// Lets go of a snapshot that is no longer the newest: who is not asked to pick holds on to who has left.
    pub fn refresh(&mut self) {
        self.snapshot.load();
    }

    /// A random live entry whose id is not among `tried`; every live entry is as likely as another.
    /// `None` only if there is none.
    pub fn pick(&mut self, now: Instant, rng: &mut impl Rng, tried: &[u64]) -> Option<&Arc<Entry>> {
        self.pick_if(now, rng, |entry| !tried.contains(&entry.id()))
    }

    /// As [`pick`](Self::pick), among those that speak `protocol`.
    pub fn pick_speaking(
        &mut self,
        protocol: Protocol,
        now: Instant,
        rng: &mut impl Rng,
        tried: &[u64],
    ) -> Option<&Arc<Entry>> {
        self.pick_if(now, rng, |entry| entry.protocol() == protocol && !tried.contains(&entry.id()))
    }

    fn pick_if(
        &mut self,
        now: Instant,
        rng: &mut impl Rng,
        suits: impl Fn(&Entry) -> bool,
    ) -> Option<&Arc<Entry>> {
        let oldest_live = self.registry.inner.oldest_live(now);
        let entries = self.snapshot.load();
        if entries.is_empty() {
            return None;
        }
        let serves = |entry: &Entry| entry.is_live(oldest_live) && suits(entry);

        let mut index = 0;
        for _ in 0..TRIES {
            index = rng.random_range(0..entries.len());
            if entries.get(index).is_some_and(|entry| serves(entry)) {
                return entries.get(index);
            }
        }
        // Most have expired or were tried: whoever is left is found, from a random place on.
        let (before, after) = entries.split_at_checked(index)?;
        after.iter().chain(before).find(|entry| serves(entry))
    }
}
