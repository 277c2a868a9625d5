//! Who is live: the map from address to entry, and a snapshot of it to pick from.
//!
//! The room does no I/O and spawns nothing. Heartbeats are [recorded](Registry::record) from the control
//! side; each worker holds a [`Reader`] and [picks](Reader::pick) from the last published snapshot: one load
//! and one index, however many dataservers there are. Liveness is a predicate on the entry, asked at every
//! pick: was it heard within the limit, and does it stand well? So a late [sweep](Registry::sweep) or snapshot never
//! sends a request to whom is known to be gone. Workers [say](Entry::failed) what failed; whom they make doubtful
//! gets no more requests from any of them until a probe, which is [`liveness`](crate::liveness)'s, settles it.

mod clock;
mod departed;
mod entry;
mod feed;
mod history;
mod joins;
mod reader;
mod shared;
mod standing;
mod survey;
mod traffic;
mod view;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use tokio::time::Instant;

pub use departed::KEPT as DEPARTED_KEPT;
pub use entry::{Entry, Probed};
pub use feed::{Happened, Hold, News};
pub use history::{Event, What};
pub use reader::Reader;
pub use shared::{Ejection, Settings};
pub use standing::State;
pub use survey::{Frozen, Survey};
pub use traffic::{Failure, Shard, Totals, Traffic};
pub use view::{Dataserver, Member};

use departed::{Departed, Goodbye, Past};
use entry::Heard;
use joins::{Admission, Joins};
use reader::Rotation;
use shared::Shared;
use standing::Doubt;

use crate::addr::Addr;
use crate::presence::{Incarnation, Phase};
use crate::protocol::Protocol;

/// Shortest time between two snapshots. Joins that come faster share one.
const PUBLISH_GAP: Duration = Duration::from_millis(10);

/// A cheap handle to the one live set of the process.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    capacity: AtomicUsize,
    entries: DashMap<Addr, Arc<Entry>>,
    next_id: AtomicU64,
    joins: Joins,
    rotation: arc_swap::ArcSwap<Rotation>,
    departed: Departed,
    shared: Arc<Shared>,
}

/// A heartbeat: validated, and with a time that can be relied on.
pub struct Beat<'a> {
    /// Whose.
    pub addr: &'a Addr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether it takes requests.
    pub phase: Phase,
    /// Which process it is, if it says so.
    pub incarnation: Option<&'a Incarnation>,
    /// When it was sent; not later than when it is recorded.
    pub sent: Instant,
    /// The nsqd that it came by.
    pub nsqd: &'a str,
}

/// What a heartbeat did to the live set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The dataserver was not known: it is in the set from now on.
    Joined,
    /// It was known, and stays.
    Refreshed,
    /// It is about to stop.
    Draining,
    /// It said goodbye and has left.
    Left,
    /// The heartbeat is older than the TTL: it says nothing about now.
    Stale,
    /// It is of a process that has said goodbye, or whose place was taken, and was sent before that.
    Superseded,
    /// It is of a process whose place was taken, and which is still there.
    Conflict,
    /// The dataserver is not known and the registry holds as many as it may.
    Full,
    /// The dataserver is not known and too many join.
    TooFast,
}

/// Why a dataserver left the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It was silent for longer than the TTL.
    Expired,
    /// It was silent while heartbeats could not be heard, and its probes failed.
    ProbeFailed,
    /// It said so.
    Goodbye,
    /// It may not be where it is, since somebody has changed what may.
    NotAllowed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Expired, Self::ProbeFailed, Self::Goodbye, Self::NotAllowed];

    /// The label of `gateway_evictions_total{reason}`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::ProbeFailed => "probe_failed",
            Self::Goodbye => "goodbye",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// An entry that the sweep removed.
#[derive(Debug)]
pub struct Evicted {
    /// Whose.
    pub addr: Addr,
    /// Why.
    pub reason: Reason,
    /// The same as a sentence: what was noted last of it.
    pub what: What,
    /// How long it had been silent.
    pub silent_for: Duration,
    /// How long it had been known.
    pub known_for: Duration,
    /// How many heartbeats had been heard from it.
    pub heartbeats: u64,
}

impl Registry {
    /// An empty registry.
    pub fn new(settings: Settings) -> Self {
        let Settings { ttl, capacity, join_rate, trusted_joins, ejection } = settings;
        let inner = Inner {
            capacity: AtomicUsize::new(capacity),
            entries: DashMap::new(),
            next_id: AtomicU64::new(0),
            joins: Joins::new(join_rate, trusted_joins, ttl),
            rotation: arc_swap::ArcSwap::default(),
            departed: Departed::default(),
            shared: Arc::new(Shared::new(ttl, ejection)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// From now on these hold. Whoever is in the set stays: [`hold`](Self::hold) says who is silent for too long, and
    /// the caller [ticks](Self::tick) as often as the new TTL wants it.
    pub fn reconfigure(&self, settings: Settings) {
        let Settings { ttl, capacity, join_rate, trusted_joins, ejection } = settings;
        let inner = &*self.inner;
        inner.capacity.store(capacity, Ordering::Relaxed);
        inner.joins.set_most(join_rate, trusted_joins, ttl);
        inner.shared.set_ejection(ejection);
        inner.shared.clock.set_ttl(ttl);
    }

    /// How long a silent dataserver stays live.
    pub fn ttl(&self) -> Duration {
        self.inner.shared.clock.ttl()
    }

    /// Takes in a heartbeat.
    pub fn record(&self, beat: &Beat<'_>, now: Instant) -> Recorded {
        let inner = &*self.inner;
        let age = now.saturating_duration_since(beat.sent);
        if age > self.ttl() {
            return Recorded::Stale;
        }
        let heard_at = inner.shared.clock.running(now).saturating_sub(clock::nanos(age));
        if let Some(entry) = inner.entries.get(beat.addr) {
            let heard = entry.hear(beat, heard_at, now);
            drop(entry); // its place in the map is locked
            return self.recorded(heard, beat, now);
        }
        if beat.phase == Phase::Down || inner.departed.has_said_goodbye_since(beat) {
            return Recorded::Superseded;
        }
        // Counted before it is inserted: two new ones at once must not both take the last place.
        if !inner.shared.take_place(inner.capacity()) {
            return Recorded::Full;
        }
        let (what, doubt) = match inner.joins.admit(now) {
            Admission::Trusted => (What::Joined(beat.nsqd.into()), Doubt::None),
            Admission::OnProbation => (What::JoinedOnProbation(beat.nsqd.into()), Doubt::ON_PROBATION),
            Admission::TooFast => {
                inner.shared.give_place_back(1);
                return Recorded::TooFast;
            }
        };
        let heard = |entry: &Entry| entry.hear(beat, heard_at, now);
        match inner.entries.entry(beat.addr.clone()) {
            Slot::Occupied(slot) => {
                inner.shared.give_place_back(1);
                let heard = heard(slot.get());
                drop(slot);
                self.recorded(heard, beat, now)
            }
            Slot::Vacant(slot) => {
                slot.insert(inner.admit(beat.addr, what, doubt, now, |entry| {
                    heard(entry);
                }));
                if age > inner.shared.clock.allowance() {
                    inner.shared.changed_since_survey.store(true, Ordering::Relaxed);
                }
                // Users are turned away for want of it: it is not kept waiting for others to share a snapshot with.
                if doubt == Doubt::None && inner.rotation.load().has_nobody_live() {
                    self.publish();
                }
                Recorded::Joined
            }
        }
    }

    fn recorded(&self, heard: Heard, beat: &Beat<'_>, now: Instant) -> Recorded {
        match heard {
            Heard::Up => Recorded::Refreshed,
            Heard::Draining => Recorded::Draining,
            Heard::Superseded => Recorded::Superseded,
            Heard::Conflict => Recorded::Conflict,
            Heard::Goodbye => {
                let inner = &*self.inner;
                let goodbye = Goodbye { sent: beat.sent, incarnation: beat.incarnation.cloned() };
                let left = inner.entries.remove_if(beat.addr, |_, entry| {
                    // Another process may have taken its place since.
                    let is_gone = entry.has_said_goodbye();
                    if is_gone {
                        inner.depart(entry, Reason::Goodbye, Some(goodbye), now);
                    }
                    is_gone
                });
                if left.is_none() {
                    return Recorded::Superseded;
                }
                inner.shared.give_place_back(1);
                Recorded::Left
            }
        }
    }

    /// Takes in a dataserver that was in the set of the gateway before this one. It has to pass a probe, and has
    /// a TTL to be heard. Returns whether it was taken.
    pub fn restore(&self, member: Member, now: Instant) -> bool {
        let inner = &*self.inner;
        if !inner.shared.take_place(inner.capacity()) {
            return false;
        }
        let addr = member.addr.clone();
        let Slot::Vacant(slot) = inner.entries.entry(addr.clone()) else {
            inner.shared.give_place_back(1);
            return false;
        };
        let heard_at = inner.shared.clock.running(now);
        slot.insert(inner.admit(&addr, What::Restored, Doubt::restored(now), now, |entry| {
            entry.presume(heard_at, member);
        }));
        true
    }

    /// Removes the entries that are no longer live, and those that are silent and have failed their probes for
    /// `mercy`.
    pub fn sweep(&self, now: Instant, mercy: Duration) -> Vec<Evicted> {
        let clock = &self.inner.shared.clock;
        let (oldest_live, ttl) = (clock.oldest_live(now), clock.ttl());
        self.inner.departed.forget_old(now);
        self.evict(now, |entry, silent_for| entry.reason_to_leave(oldest_live, silent_for > ttl, now, mercy))
    }

    /// Removes the entries whose address may not be in the set any more. Of whom that cannot be told, because a name may
    /// lead anywhere, has to pass a probe.
    pub fn expel(&self, now: Instant, may_stay: impl Fn(&Addr) -> Option<bool>) -> Vec<Evicted> {
        self.evict(now, |entry, _| {
            let may_stay = may_stay(entry.addr());
            if may_stay.is_none() {
                entry.doubt(Failure::Resolve, now);
            }
            (may_stay == Some(false)).then_some(Reason::NotAllowed)
        })
    }

    /// Removes those that there is a reason for; it is asked with how long each was silent.
    fn evict(&self, now: Instant, reason: impl Fn(&Entry, Duration) -> Option<Reason>) -> Vec<Evicted> {
        let inner = &*self.inner;
        let running = inner.shared.clock.running(now);
        let mut evicted = Vec::new();
        inner.entries.retain(|_, entry| {
            let silent_for = entry.silence(running);
            let Some(reason) = reason(entry, silent_for) else { return true };
            // While its place in the map is still locked: a heartbeat that comes now finds one or the other.
            let what = inner.depart(entry, reason, None, now);
            evicted.push(Evicted {
                addr: entry.addr().clone(),
                reason,
                what,
                silent_for,
                known_for: now.saturating_duration_since(entry.joined()),
                heartbeats: entry.heartbeats(),
            });
            false
        });
        inner.shared.give_place_back(evicted.len());
        evicted
    }

    /// Publishes a snapshot after every change, for as long as it is polled. Changes that come while one
    /// is built or shortly after share the next, so that 100,000 joins do not cost 100,000 snapshots.
    pub async fn publish_changes(&self) {
        loop {
            self.inner.shared.changed.notified().await;
            let begun = Instant::now();
            self.publish();
            // A large set takes long to copy: never more than a tenth of the time goes into that.
            tokio::time::sleep((begun.elapsed() * 9).max(PUBLISH_GAP)).await;
        }
    }

    /// Makes the present set the one that is picked from.
    pub fn publish(&self) {
        let rotation = Rotation::of(self.inner.entries.iter().map(|slot| slot.value().clone()));
        self.inner.shared.picked_from.store(rotation.len(), Ordering::Relaxed);
        self.inner.rotation.store(Arc::new(rotation));
    }

    /// A view to pick from, for one worker.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// The entry of an address.
    pub fn entry(&self, addr: &Addr) -> Option<Arc<Entry>> {
        self.inner.entries.get(addr).map(|slot| slot.value().clone())
    }
}

impl Inner {
    fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    /// A new entry, for a place that is locked.
    fn admit(
        &self,
        addr: &Addr,
        what: What,
        doubt: Doubt,
        now: Instant,
        heard: impl FnOnce(&Entry),
    ) -> Arc<Entry> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let past = self.departed.take(addr);
        let entry = Entry::new(id, addr.clone(), past, now, self.shared.clone());
        entry.begin(what, doubt, now);
        heard(&entry);
        if doubt != Doubt::None {
            self.shared.raise(addr);
        }
        self.shared.changed.notify_one();
        Arc::new(entry)
    }

    /// What there is to do when an entry leaves the map. Returns what is noted of it.
    fn depart(&self, entry: &Entry, reason: Reason, goodbye: Option<Goodbye>, now: Instant) -> What {
        let silence = entry.silence(self.shared.clock.running(now));
        let what = What::Left { reason, silence, via: entry.via() };
        let history = entry.leave(what.clone(), now);
        let past = Past { since: now, traffic: entry.traffic().clone(), history, goodbye };
        self.departed.remember(entry.addr(), past, self.capacity());
        self.shared.changed.notify_one();
        what
    }
}

#[cfg(test)]
mod tests;
