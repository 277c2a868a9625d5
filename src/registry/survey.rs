//! Looking at the whole set: for people, and to tell whether one is silent or all are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::standing::{Doubt, Standing};
use super::{Dataserver, Entry, Event, Happened, Hold, Member, News, Reason, Registry, State, Totals};
use crate::addr::Addr;

/// The whole set at one moment, as far as it matters for whether it can be heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Those that get requests, or did until somebody doubted them.
    pub known: usize,
    /// Those among them that were silent for longer than was asked about.
    pub silent: usize,
    /// The longest silence of one of them.
    pub longest: Duration,
    /// All others: those that failed a probe, or have to pass one first.
    pub out: usize,
    /// Whether anybody at all was not silent for that long.
    pub is_anybody_heard: bool,
}

/// Why nobody is evicted for silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Frozen {
    /// No nsqd is connected.
    NoNsqd = 1,
    /// Most of them fell silent at once.
    Silence = 2,
}

impl Frozen {
    const ALL: [Self; 2] = [Self::NoNsqd, Self::Silence];

    /// A word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoNsqd => "no_nsqd",
            Self::Silence => "silence",
        }
    }
}

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNsqd => "no nsqd is connected",
            Self::Silence => "most dataservers are silent",
        })
    }
}

impl Registry {
    /// Says that the gateway runs: to be called often. Returns for how long it did not, if that was so long that
    /// silence meanwhile says nothing about dataservers; then it does not count.
    pub fn tick(&self, now: Instant) -> Option<Duration> {
        self.inner.shared.clock.tick(now)
    }

    /// How late a [`tick`](Self::tick) may be.
    pub fn tick_allowance(&self) -> Duration {
        self.inner.shared.clock.allowance()
    }

    /// From now on who is silent for longer is not live; `None`: nobody's silence matters. And whether the set is frozen.
    pub fn hold(&self, limit: Option<Duration>, frozen: Option<Frozen>) {
        self.inner.shared.feed.note_hold(Instant::now(), Hold::of(limit, frozen, self.ttl()));
        self.inner.shared.clock.set_silence_limit(limit);
        self.inner.shared.frozen.store(frozen.map_or(0, |why| why as u8), Ordering::Relaxed);
    }

    /// Why nobody is evicted for silence, if it is so.
    pub fn frozen(&self) -> Option<Frozen> {
        let frozen = self.inner.shared.frozen.load(Ordering::Relaxed);
        Frozen::ALL.into_iter().find(|why| *why as u8 == frozen)
    }

    /// What silence means, and since when; `None`: from the beginning.
    pub fn held(&self) -> (Hold, Option<Instant>) {
        self.inner.shared.feed.hold()
    }

    /// Notes that the gateway itself stood still for so long.
    pub fn note_pause(&self, pause: Duration) {
        self.inner.shared.feed.note(Instant::now(), News::Paused(pause));
    }

    /// What happened in the whole set from the event of this number on, oldest first, and at most the last 256.
    pub fn happened_since(&self, number: u64) -> Vec<Happened> {
        self.inner.shared.feed.since(number)
    }

    /// Whether somebody may expire sooner than the last survey could tell: who joined late in its TTL, or has the right
    /// to requests again.
    pub fn has_changed_since_survey(&self) -> bool {
        self.inner.shared.changed_since_survey.load(Ordering::Relaxed)
    }

    /// Looks at everybody who has not expired; silent is who was not heard for `silence`.
    pub fn survey(&self, now: Instant, silence: Duration) -> Survey {
        let shared = &self.inner.shared;
        // Before anybody is looked at: what changes meanwhile is for the next.
        shared.changed_since_survey.store(false, Ordering::Relaxed);
        let (running, oldest_live) = (shared.clock.running(now), shared.clock.oldest_live(now));
        let mut survey = Survey::default();
        for entry in self.inner.entries.iter().filter(|entry| entry.is_heard_since(oldest_live)) {
            let silent_for = entry.silence(running);
            survey.is_anybody_heard |= silent_for <= silence && entry.heartbeats() > 0;
            if entry.standing() == Standing::Out {
                survey.out += 1;
                continue;
            }
            survey.known += 1;
            survey.silent += usize::from(silent_for > silence);
            survey.longest = survey.longest.max(silent_for);
        }
        survey
    }

    /// Those that nobody doubts, and that were not heard for `silence`.
    pub fn silent(&self, now: Instant, silence: Duration) -> Vec<Arc<Entry>> {
        let running = self.inner.shared.clock.running(now);
        let silent = |entry: &Entry| {
            matches!(entry.standing(), Standing::Live | Standing::Draining)
                && entry.silence(running) > silence
        };
        let entries = self.inner.entries.iter().filter(|entry| silent(entry));
        entries.map(|slot| slot.value().clone()).collect()
    }

    /// Waits until somebody becomes doubtful.
    pub async fn doubts_raised(&self) {
        self.inner.shared.doubts.notified().await;
    }

    /// Those that became doubtful since this was asked last.
    pub fn take_doubtful(&self) -> Vec<Arc<Entry>> {
        self.inner.shared.take_raised().iter().filter_map(|addr| self.entry(addr)).collect()
    }

    /// How many are live: of those that are picked from, since who has just come is not yet among them.
    pub fn live(&self, now: Instant) -> usize {
        self.inner.rotation.load().live(self.inner.shared.clock.oldest_live(now))
    }

    /// How many get requests: those that are live, or if nobody is, those that are better than nobody.
    pub fn picked_from(&self, now: Instant) -> usize {
        self.inner.rotation.load().picked_from(self.inner.shared.clock.oldest_live(now))
    }

    /// How many there are in each state, in the order of [`State::ALL`].
    pub fn states(&self, now: Instant) -> [usize; State::ALL.len()] {
        let oldest_live = self.inner.shared.clock.oldest_live(now);
        let mut states = [0; State::ALL.len()];
        for entry in self.inner.entries.iter().filter(|entry| entry.is_heard_since(oldest_live)) {
            if let Some(count) = states.get_mut(State::from(entry.standing()) as usize) {
                *count += 1;
            }
        }
        states
    }

    /// Everybody in the set, sorted by address.
    pub fn list(&self, now: Instant) -> Vec<Dataserver> {
        let clock = &self.inner.shared.clock;
        let (running, oldest_live) = (clock.running(now), clock.oldest_live(now));
        let known = self.inner.entries.iter().filter(|entry| entry.is_heard_since(oldest_live));
        let mut list: Vec<_> = known.map(|entry| entry.view(running, now)).collect();
        list.sort_unstable_by(|a, b| a.addr.cmp(&b.addr));
        list
    }

    /// Calls `visit` with everybody in the set, and for how long each was silent. A part of the map is locked meanwhile.
    pub fn each(&self, now: Instant, mut visit: impl FnMut(&Entry, Duration)) {
        let clock = &self.inner.shared.clock;
        let (running, oldest_live) = (clock.running(now), clock.oldest_live(now));
        for entry in self.inner.entries.iter().filter(|entry| entry.is_heard_since(oldest_live)) {
            visit(&entry, entry.silence(running));
        }
    }

    /// How many got requests when the last snapshot was made: without looking at any of them.
    pub fn live_in_snapshot(&self) -> usize {
        self.inner.rotation.load().live_at_first()
    }

    /// Those that the gateway after this one should know of.
    pub fn members(&self, now: Instant) -> Vec<Member> {
        let oldest_live = self.inner.shared.clock.oldest_live(now);
        let known = self.inner.entries.iter().filter(|entry| entry.is_heard_since(oldest_live));
        known.filter_map(|entry| entry.member()).collect()
    }

    /// One of the set.
    pub fn get(&self, addr: &Addr, now: Instant) -> Option<Dataserver> {
        let clock = &self.inner.shared.clock;
        let oldest_live = clock.oldest_live(now);
        let entry = self.inner.entries.get(addr).filter(|entry| entry.is_heard_since(oldest_live))?;
        Some(entry.view(clock.running(now), now))
    }

    /// What happened last to one that is in the set, or left it not [long](super::DEPARTED_KEPT) ago; oldest first.
    pub fn events(&self, addr: &Addr) -> Option<Vec<Event>> {
        let entry = self.entry(addr).map(|entry| entry.events());
        entry.or_else(|| self.inner.departed.events(addr))
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

impl Entry {
    /// Why it is to leave the set, if it is.
    pub(super) fn reason_to_leave(
        &self,
        oldest_live: u64,
        is_silent: bool,
        now: Instant,
        mercy: Duration,
    ) -> Option<Reason> {
        if !self.is_heard_since(oldest_live) {
            return Some(Reason::Expired);
        }
        if !is_silent || self.standing() != Standing::Out {
            return None;
        }
        let story = self.story();
        match story.doubt {
            // It never had the right to be waited for.
            Doubt::Suspect { proven: false, .. } => Some(Reason::Expired),
            _ => story
                .fails_probes_since()
                .filter(|since| now.saturating_duration_since(*since) >= mercy)
                .map(|_| Reason::ProbeFailed),
        }
    }
}
