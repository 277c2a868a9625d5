//! One dataserver.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::feed::News;
use super::history::{Event, History, What};
use super::standing::{Doubt, Standing, State, Story};
use super::traffic::{Failure, Traffic};
use super::view::Member;
use super::{Beat, Shared};
use crate::addr::Addr;
use crate::presence::{Phase, ProcessId};
use crate::protocol::Protocol;

/// A dataserver as the workers see it. What a worker looks at to pick comes first, in this order: of a hundred thousand
/// each is fetched from memory anew, and is to be one line of it.
#[repr(C)]
pub struct Entry {
    id: u64,
    /// By the registry's clock, without pauses.
    last_heard: AtomicU64,
    /// A copy of what the story comes to.
    standing: AtomicU8,
    has_left: AtomicBool,
    speaks_h2c: AtomicBool,
    failures_in_a_row: AtomicU32,
    heartbeats: AtomicU64,
    addr: Addr,
    joined: Instant,
    traffic: Arc<Traffic>,
    story: Mutex<Story>,
    shared: Arc<Shared>,
}

/// What a heartbeat changed.
#[derive(Clone, Copy)]
pub(super) enum Heard {
    Up,
    Draining,
    Goodbye,
    Superseded,
    Conflict,
}

/// What a probe changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// Nothing.
    Unchanged,
    /// The dataserver gets requests again.
    Back,
    /// It gets no more.
    Out,
}

impl Entry {
    /// One that was not heard from yet.
    pub(super) fn new(
        id: u64,
        addr: Addr,
        (traffic, history): (Arc<Traffic>, History),
        now: Instant,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            id,
            addr,
            joined: now,
            last_heard: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            failures_in_a_row: AtomicU32::new(0),
            standing: AtomicU8::new(Standing::Live as u8),
            has_left: AtomicBool::new(false),
            speaks_h2c: AtomicBool::new(false),
            traffic,
            story: Mutex::new(Story::new(history)),
            shared,
        }
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

    /// Whether it is no longer in the set: what is kept for it can go.
    pub fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Relaxed)
    }

    /// It answered a request with this status.
    pub fn answered(&self, status: u16) {
        if status >= 500 && self.shared.ejection().answered_5xx {
            self.count_failure();
        } else if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// It failed a request that it was given at `asked`, on a connection that was kept from one before or on a new one.
    pub fn failed(&self, failure: Failure, was_kept: bool, asked: Instant) {
        let is_doubtful = match failure {
            // It is busy, not ill; or it was not even asked.
            Failure::Refused | Failure::NoSocket => return,
            // Dataservers close what is idle; that it was just in use is nobody's fault.
            Failure::Closed if was_kept => return,
            // It may be gone, or only that connection: a probe tells.
            Failure::Lost if was_kept => return self.doubt(failure, asked),
            Failure::Connect
            | Failure::ConnectTimeout
            | Failure::Resolve
            | Failure::Closed
            | Failure::Lost
            | Failure::Body => true,
            Failure::HeadTimeout | Failure::Protocol => false,
        };
        self.count_failure();
        if is_doubtful {
            self.doubt(failure, asked);
        }
    }

    /// A probe has to settle whether it gets requests.
    pub(super) fn doubt(&self, failure: Failure, asked: Instant) {
        let mut story = self.story();
        if story.doubt != Doubt::None || self.has_left() {
            return;
        }
        story.breaks_connections = matches!(failure, Failure::Closed | Failure::Body);
        let is_probe_wrong = story.vouched.take().is_some_and(|vouched| vouched <= asked)
            && self.failures_in_a_row.load(Ordering::Relaxed) > 1;
        if is_probe_wrong && self.shared.may_eject() {
            self.eject(&mut story, What::Refuted);
            return;
        }
        story.doubt = Doubt::SUSPECT;
        self.note(&mut story, Instant::now(), What::Doubted(failure));
        self.settle(&story);
        self.shared.raise(&self.addr);
    }

    fn count_failure(&self) {
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let limit = self.shared.ejection().failures;
        if limit == 0 || failures < limit {
            return;
        }
        let mut story = self.story();
        // Of one that is doubted a probe decides, and sooner: it may only have been started again.
        if story.doubt == Doubt::None && !self.has_left() && self.shared.may_eject() {
            self.eject(&mut story, |lasts| What::Ejected(failures, lasts));
        }
    }

    /// It gets no requests for a while, as it may be.
    fn eject(&self, story: &mut Story, what: impl FnOnce(Duration) -> What) {
        let (now, ejection) = (Instant::now(), self.shared.ejection());
        let before = story.ejections.filter(|(_, over)| now < *over + ejection.max_duration);
        let times = before.map_or(0, |(times, _)| times);
        let lasts = ejection.duration.saturating_mul(1 << times.min(16)).min(ejection.max_duration);
        story.doubt = Doubt::Ejected { until: now + lasts };
        story.ejections = Some((times.saturating_add(1), now + lasts));
        self.note(story, now, what(lasts));
        self.settle(story);
        self.shared.raise(&self.addr);
    }

    /// When the next probe is due by what is thought of it; `None` if there is no doubt.
    pub fn probe_due(&self, interval: Duration) -> Option<Instant> {
        if self.has_left() { None } else { self.story().probe_due(interval, self.joined) }
    }

    /// Whether it has to pass a probe before it gets requests for the first time.
    pub fn is_on_probation(&self) -> bool {
        self.story().is_on_probation()
    }

    /// Whether what it failed last had been sent to it: then that it takes a connection says little.
    pub fn breaks_connections(&self) -> bool {
        self.story().breaks_connections
    }

    /// Whether it gets requests.
    pub fn state(&self) -> State {
        self.standing().into()
    }

    /// Which process it is, if it says so.
    pub fn process(&self) -> Option<ProcessId> {
        self.story().incarnation.as_ref().map(|incarnation| incarnation.id.clone())
    }

    /// What happened to it last.
    pub fn last_event(&self) -> Option<Event> {
        self.story().history.last().cloned()
    }

    /// It could not be probed: that says nothing about it.
    pub fn not_probed(&self, now: Instant) {
        self.story().last_probe = Some(now);
    }

    /// A probe came back: passed, or failed for this reason.
    pub fn probed(&self, result: Result<(), String>, now: Instant) -> Probed {
        let mut story = self.story();
        if self.has_left() {
            return Probed::Unchanged;
        }
        let before = story.standing();
        story.last_probe = Some(now);
        match (result, story.doubt) {
            (Ok(()), Doubt::None) => {}
            // It was under way when the dataserver was ejected.
            (Ok(()), Doubt::Ejected { until }) if now < until => {}
            (Ok(()), doubt) => {
                if matches!(doubt, Doubt::Ejected { .. }) {
                    self.shared.eject_ended();
                }
                if matches!(doubt, Doubt::Suspect { failing: None, .. }) {
                    // That it takes connections says nothing about the next request.
                    story.vouched = Some(now);
                } else {
                    // Its process may be another one.
                    self.failures_in_a_row.store(0, Ordering::Relaxed);
                }
                story.doubt = Doubt::None;
                self.note(&mut story, now, What::ProbePassed);
            }
            (Err(why), doubt) => {
                let (since, times, proven) = match doubt {
                    Doubt::Suspect { failing: Some((since, times)), proven, .. } => (since, times, proven),
                    Doubt::Suspect { proven, .. } => (now, 0, proven),
                    Doubt::Ejected { .. } => {
                        self.shared.eject_ended();
                        (now, 0, true)
                    }
                    Doubt::None => (now, 0, true),
                };
                if times == 0 {
                    self.note(&mut story, now, What::ProbeFailed(why.into()));
                }
                let failing = Some((since, times.saturating_add(1)));
                story.doubt = Doubt::Suspect { failing, proven, heard: false };
            }
        }
        self.settle(&story);
        match (before, story.standing()) {
            (Standing::Out, Standing::Out) => Probed::Unchanged,
            (_, Standing::Out) => Probed::Out,
            (before, after) if before == after => Probed::Unchanged,
            _ => {
                self.shared.changed_since_survey.store(true, Ordering::Relaxed);
                Probed::Back
            }
        }
    }

    /// Takes a heartbeat in that is not older than the TTL.
    pub(super) fn hear(&self, beat: &Beat<'_>, heard_at: u64, now: Instant) -> Heard {
        let mut story = self.story();
        let is_newest = match (&story.incarnation, beat.incarnation) {
            (Some(known), Some(speaks)) if known.id == speaks.id => speaks.seq > known.seq,
            (_, Some(speaks)) if story.replaced.contains(&speaks.id) => {
                return self.refuse(&mut story, beat, &speaks.id, now);
            }
            _ => story.newest.is_none_or(|newest| beat.sent >= newest),
        };
        let is_same = story.is_by_same_process(beat);
        if !is_newest && !is_same {
            return Heard::Superseded;
        }
        let before = self.last_heard.fetch_max(heard_at, Ordering::Relaxed);
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
        if story.via.as_deref() != Some(beat.nsqd) {
            story.via = Some(beat.nsqd.into());
        }
        if !is_newest {
            // NSQ reorders: what was overtaken says nothing new.
            return Heard::Up;
        }
        if beat.phase == Phase::Down {
            story.newest = Some(beat.sent);
            story.phase = Phase::Down;
            story.incarnation = beat.incarnation.cloned().or(story.incarnation.take());
            return Heard::Goodbye;
        }
        if before != 0 {
            let silence = Duration::from_nanos(heard_at.saturating_sub(before));
            if silence > self.shared.clock.ttl() / 2 + self.shared.clock.allowance() {
                self.note(&mut story, now, What::Gap(silence));
            }
        }
        self.follow(&mut story, beat, is_same, now);
        match story.phase {
            Phase::Up => Heard::Up,
            Phase::Draining | Phase::Down => Heard::Draining,
        }
    }

    /// Makes the story that of the newest heartbeat.
    fn follow(&self, story: &mut Story, beat: &Beat<'_>, is_same: bool, now: Instant) {
        story.newest = story.newest.max(Some(beat.sent));
        self.speaks_h2c.store(beat.protocol == Protocol::H2c, Ordering::Relaxed);
        if is_same {
            if beat.incarnation.is_some() {
                story.incarnation = beat.incarnation.cloned();
            }
        } else {
            story.replace(beat.incarnation.cloned());
            if let Some(by) = beat.incarnation {
                self.note(story, now, What::Replaced(by.id.clone()));
            }
            // What was thought of the process before says nothing about this one.
            if matches!(story.doubt, Doubt::Ejected { .. }) {
                self.shared.eject_ended();
            }
            if !story.is_on_probation() {
                story.doubt = Doubt::None;
                story.breaks_connections = false;
                self.failures_in_a_row.store(0, Ordering::Relaxed);
            }
        }
        if story.phase != beat.phase {
            let draining = beat.phase == Phase::Draining;
            self.note(story, now, if draining { What::Draining } else { What::Serving });
            story.phase = beat.phase;
        }
        if let Doubt::Suspect { heard, .. } = &mut story.doubt
            && !*heard
        {
            *heard = true;
            self.shared.raise(&self.addr);
        }
        self.settle(story);
    }

    /// A heartbeat of a process whose place was taken.
    fn refuse(&self, story: &mut Story, beat: &Beat<'_>, id: &ProcessId, now: Instant) -> Heard {
        if story.newest.is_some_and(|newest| beat.sent <= newest) {
            return Heard::Superseded;
        }
        let is_told = story.history.last().is_some_and(|last| last.what == What::Conflict(id.clone()));
        if !is_told {
            self.note(story, now, What::Conflict(id.clone()));
        }
        Heard::Conflict
    }

    /// Before it is in the set.
    pub(super) fn begin(&self, what: What, doubt: Doubt, now: Instant) {
        let mut story = self.story();
        story.doubt = doubt;
        if let What::Joined(nsqd) | What::JoinedOnProbation(nsqd) = &what {
            story.via = Some(nsqd.clone());
        }
        self.note(&mut story, now, what);
        self.settle(&story);
    }

    /// It was heard at this time, though no heartbeat came.
    pub(super) fn presume(&self, heard_at: u64, member: Member) {
        self.last_heard.store(heard_at, Ordering::Relaxed);
        self.speaks_h2c.store(member.protocol == Protocol::H2c, Ordering::Relaxed);
        self.story().incarnation = member.incarnation;
    }

    /// Whether the last that was heard of it is its goodbye.
    pub(super) fn has_said_goodbye(&self) -> bool {
        self.story().phase == Phase::Down
    }

    /// The nsqd that its last heartbeat came by.
    pub(super) fn via(&self) -> Option<Arc<str>> {
        self.story().via.clone()
    }

    /// It leaves the set. Returns what happened to it.
    pub(super) fn leave(&self, what: What, now: Instant) -> History {
        let mut story = self.story();
        self.has_left.store(true, Ordering::Relaxed);
        if matches!(story.doubt, Doubt::Ejected { .. }) {
            self.shared.eject_ended();
        }
        self.note(&mut story, now, what);
        // The snapshot still has it: that is for nobody to pick any more.
        self.settle(&story);
        story.history.clone()
    }

    /// In its own history, and in the feed of all.
    fn note(&self, story: &mut Story, at: Instant, what: What) {
        self.shared.feed.note(at, News::Dataserver(self.addr.clone(), what.clone()));
        story.history.note(at, what);
    }

    /// Makes what workers see what the story says.
    fn settle(&self, story: &Story) {
        let standing = if self.has_left() { Standing::Out } else { story.standing() } as u8;
        if self.standing.swap(standing, Ordering::Relaxed) != standing {
            self.shared.changed.notify_one();
        }
    }

    pub(super) fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> Standing {
        Standing::of(self.standing.load(Ordering::Relaxed))
    }

    pub(super) fn is_heard_since(&self, oldest: u64) -> bool {
        self.last_heard.load(Ordering::Relaxed) >= oldest
    }

    /// By the registry's clock.
    pub(super) fn silence(&self, running: u64) -> Duration {
        Duration::from_nanos(running.saturating_sub(self.last_heard.load(Ordering::Relaxed)))
    }

    pub(super) fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    /// When its first heartbeat came.
    pub fn joined(&self) -> Instant {
        self.joined
    }
}
