//! What all entries have in common.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::clock::Clock;
use super::feed::Feed;
use crate::addr::Addr;

/// What the registry is to do.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a dataserver lives after its last heartbeat.
    pub ttl: Duration,
    /// How many dataservers there may be.
    pub capacity: usize,
    /// How many may join in a second.
    pub join_rate: usize,
    /// How many may join within a TTL without a probe.
    pub trusted_joins: usize,
    /// When one that fails requests gets none for a while.
    pub ejection: Ejection,
}

impl Default for Settings {
    /// The defaults of the config.
    fn default() -> Self {
        let ejection = Ejection {
            failures: 5,
            duration: Duration::from_secs(10),
            max_duration: Duration::from_secs(300),
            percent: 50,
            answered_5xx: false,
        };
        let ttl = Duration::from_secs(10);
        Self { ttl, capacity: 100_000, join_rate: 1_000, trusted_joins: 16, ejection }
    }
}

/// When a dataserver that fails requests gets none for a while.
#[derive(Debug, Clone, Copy)]
pub struct Ejection {
    /// So many failures in a row; 0 is never.
    pub failures: u32,
    /// For how long the first time; then twice as long each time.
    pub duration: Duration,
    /// The longest.
    pub max_duration: Duration,
    /// At most this part of the set at a time, in percent.
    pub percent: usize,
    /// Whether an answered 5xx is a failure, too.
    pub answered_5xx: bool,
}

pub(super) struct Shared {
    pub(super) clock: Clock,
    ejection: ArcSwap<Ejection>,
    /// The snapshot to pick from is no longer right.
    pub(super) changed: Notify,
    /// The entries in the map; asking the map itself would lock each of its shards.
    size: AtomicUsize,
    /// Those that were picked from when the last snapshot was made.
    pub(super) picked_from: AtomicUsize,
    /// Those that are ejected.
    ejected: AtomicUsize,
    /// Somebody may expire sooner than the last survey could tell.
    pub(super) changed_since_survey: AtomicBool,
    /// Why, by its number; 0 if it is not.
    pub(super) frozen: AtomicU8,
    /// Those that became doubtful, and that nobody has looked at yet.
    raised: Mutex<HashSet<Addr>>,
    pub(super) doubts: Notify,
    pub(super) feed: Feed,
}

impl Shared {
    pub(super) fn new(ttl: Duration, ejection: Ejection) -> Self {
        Self {
            clock: Clock::new(ttl),
            ejection: ArcSwap::from_pointee(ejection),
            changed: Notify::new(),
            size: AtomicUsize::new(0),
            picked_from: AtomicUsize::new(0),
            ejected: AtomicUsize::new(0),
            changed_since_survey: AtomicBool::new(false),
            frozen: AtomicU8::new(0),
            raised: Mutex::default(),
            doubts: Notify::new(),
            feed: Feed::default(),
        }
    }

    /// When one that fails requests gets none for a while: asked only when one has failed.
    pub(super) fn ejection(&self) -> Ejection {
        **self.ejection.load()
    }

    pub(super) fn set_ejection(&self, ejection: Ejection) {
        self.ejection.store(Arc::new(ejection));
    }

    /// Whether there was room for one more.
    pub(super) fn take_place(&self, capacity: usize) -> bool {
        let has_room = self.size.fetch_add(1, Ordering::Relaxed) < capacity;
        if !has_room {
            self.give_place_back(1);
        }
        has_room
    }

    pub(super) fn give_place_back(&self, places: usize) {
        self.size.fetch_sub(places, Ordering::Relaxed);
    }

    /// Somebody should look at this one.
    pub(super) fn raise(&self, addr: &Addr) {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).insert(addr.clone());
        self.doubts.notify_one();
    }

    pub(super) fn take_raised(&self) -> HashSet<Addr> {
        std::mem::take(&mut *self.raised.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether one more may be ejected; then it counts as that.
    pub(super) fn may_eject(&self) -> bool {
        let ejection = self.ejection();
        if ejection.failures == 0 {
            return false;
        }
        let most = self.picked_from.load(Ordering::Relaxed).saturating_mul(ejection.percent) / 100;
        let may = self.ejected.fetch_add(1, Ordering::Relaxed) < most;
        if !may {
            self.eject_ended();
        }
        may
    }

    pub(super) fn eject_ended(&self) {
        self.ejected.fetch_sub(1, Ordering::Relaxed);
    }
}
