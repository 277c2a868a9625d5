//! Picking a live dataserver.

use std::sync::Arc;

use arc_swap::Cache;
use rand::Rng;
use tokio::time::Instant;

use super::standing::Standing;
use super::{Entry, Inner, Registry};
use crate::protocol::Protocol;

/// Random tries before every entry is looked at. Between two sweeps at most a few entries have expired,
/// so that the first try nearly always finds a live one.
const TRIES: usize = 8;

/// One worker's view of the live set. It keeps the snapshot it saw last and asks with a single load
/// whether there is a newer one, so that a pick touches no count shared between cores.
pub struct Reader {
    registry: Registry,
    rotation: Cache<Handle, Arc<Rotation>>,
}

/// Whom to pick from.
#[derive(Default)]
pub(super) struct Rotation {
    /// Those that stand well.
    live: Vec<Arc<Entry>>,
    /// Those that are better than nobody.
    rest: Vec<Arc<Entry>>,
}

impl Rotation {
    pub(super) fn of(entries: impl Iterator<Item = Arc<Entry>>) -> Self {
        let mut rotation = Self::default();
        for entry in entries {
            match entry.standing() {
                Standing::Live => rotation.live.push(entry),
                Standing::Doubted | Standing::Draining | Standing::Ejected => rotation.rest.push(entry),
                Standing::Out => {}
            }
        }
        rotation
    }

    /// How many stand well by now.
    pub(super) fn live(&self, oldest_live: u64) -> usize {
        self.live.iter().filter(|entry| is_live(entry, oldest_live)).count()
    }

    /// How many a pick may come upon by now.
    pub(super) fn picked_from(&self, oldest_live: u64) -> usize {
        match self.live(oldest_live) {
            0 => {
                self.rest.iter().chain(&self.live).filter(|entry| serves_in_need(entry, oldest_live)).count()
            }
            live => live,
        }
    }

    /// How many stood well when it was made.
    pub(super) fn live_at_first(&self) -> usize {
        self.live.len()
    }

    pub(super) fn len(&self) -> usize {
        self.live.len() + self.rest.len()
    }

    pub(super) fn has_nobody_live(&self) -> bool {
        self.live.is_empty()
    }
}

/// Lets the cache hold the registry and see the rotation in it.
struct Handle(Arc<Inner>);

impl std::ops::Deref for Handle {
    type Target = arc_swap::ArcSwap<Rotation>;

    fn deref(&self) -> &Self::Target {
        &self.0.rotation
    }
}

impl Reader {
    pub(super) fn new(registry: Registry) -> Self {
        let rotation = Cache::new(Handle(registry.inner.clone()));
        Self { registry, rotation }
    }

    /// Lets go of a snapshot that is no longer the newest: who is not asked to pick holds on to who has left.
    pub fn refresh(&mut self) {
        self.rotation.load();
    }

    /// A random live entry whose id is not among `tried`; every live entry is as likely as another. If there is none,
    /// one that is doubted, drains or was ejected. `None` only if there is none of these either.
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
        let oldest_live = self.registry.inner.shared.clock.oldest_live(now);
        let rotation = self.rotation.load();
        any(&rotation.live, rng, |entry| is_live(entry, oldest_live) && suits(entry)).or_else(|| {
            // In either part: who was live may be doubted since, and who was doubted live.
            let serves = |entry: &Entry| serves_in_need(entry, oldest_live) && suits(entry);
            any(&rotation.rest, rng, serves).or_else(|| any(&rotation.live, rng, serves))
        })
    }
}

fn is_live(entry: &Entry, oldest_live: u64) -> bool {
    entry.standing() == Standing::Live && entry.is_heard_since(oldest_live)
}

/// Whether it is better than nobody.
fn serves_in_need(entry: &Entry, oldest_live: u64) -> bool {
    entry.standing() != Standing::Out && entry.is_heard_since(oldest_live)
}

/// A random one of those that serve.
fn any<'a>(
    entries: &'a [Arc<Entry>],
    rng: &mut impl Rng,
    serves: impl Fn(&Entry) -> bool,
) -> Option<&'a Arc<Entry>> {
    if entries.is_empty() {
        return None;
    }
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
