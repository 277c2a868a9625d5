//! Whether a dataserver gets requests, and why not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Beat;
use super::history::History;
use crate::presence::{Incarnation, Phase, ProcessId};

/// Whether a dataserver gets requests. Every pick asks; it is one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Standing {
    /// It does.
    Live,
    /// It is doubted, and gets them only if nobody else is left, until a probe settles it.
    Doubted,
    /// It is about to stop, likewise.
    Draining,
    /// It fails what it gets, likewise.
    Ejected,
    /// It failed a probe, or has to pass one first: it gets none.
    Out,
}

impl Standing {
    pub(super) fn of(byte: u8) -> Self {
        [Self::Live, Self::Doubted, Self::Draining, Self::Ejected]
            .into_iter()
            .find(|standing| *standing as u8 == byte)
            .unwrap_or(Self::Out)
    }
}

/// The `state` that people see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum State {
    /// It gets requests.
    Live,
    /// It is doubted: a probe decides.
    Suspect,
    /// It says that it is about to stop.
    Draining,
    /// It failed too many requests in a row.
    Ejected,
}

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Live, Self::Suspect, Self::Draining, Self::Ejected];

    /// The word that stands in answers and labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
        }
    }
}

impl From<Standing> for State {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Live => Self::Live,
            Standing::Doubted | Standing::Out => Self::Suspect,
            Standing::Draining => Self::Draining,
            Standing::Ejected => Self::Ejected,
        }
    }
}

/// How many processes whose place was taken are remembered of one address.
const REPLACED_KEPT: usize = 4;

/// A probe of one that fails them is put off, twice as long each time, until it is this many intervals.
const MOST_INTERVALS: u32 = 5;

/// What changes seldom about a dataserver: who it is, what it says of itself, and what is thought of it.
pub(super) struct Story {
    pub(super) phase: Phase,
    pub(super) incarnation: Option<Incarnation>,
    /// Processes whose place was taken.
    pub(super) replaced: Vec<ProcessId>,
    /// The nsqd that its last heartbeat came by.
    pub(super) via: Option<Arc<str>>,
    /// When the newest of its heartbeats was sent.
    pub(super) newest: Option<Instant>,
    pub(super) doubt: Doubt,
    pub(super) last_probe: Option<Instant>,
    /// What it failed last had been sent to it: that it takes a connection says little.
    pub(super) breaks_connections: bool,
    /// When a probe passed though a request had just failed. If the next one fails, too, the probe was wrong.
    pub(super) vouched: Option<Instant>,
    /// How often it was ejected, and when the last time was over.
    pub(super) ejections: Option<(u32, Instant)>,
    pub(super) history: History,
}

/// What is thought of a dataserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    Suspect {
        /// Since when, and how often, its probes fail.
        failing: Option<(Instant, u32)>,
        /// Whether it ever had the right to requests.
        proven: bool,
        /// Whether it was heard since it was probed last.
        heard: bool,
    },
    Ejected {
        until: Instant,
    },
}

impl Doubt {
    pub(super) const SUSPECT: Self = Self::Suspect { failing: None, proven: true, heard: false };
    pub(super) const ON_PROBATION: Self = Self::Suspect { failing: None, proven: false, heard: true };

    /// It was there when somebody looked last: it is asked until it answers, and gets no request before.
    pub(super) fn restored(now: Instant) -> Self {
        Self::Suspect { failing: Some((now, 0)), proven: true, heard: false }
    }
}

impl Story {
    pub(super) fn new(history: History) -> Self {
        Self {
            phase: Phase::Up,
            incarnation: None,
            replaced: Vec::new(),
            via: None,
            newest: None,
            doubt: Doubt::None,
            last_probe: None,
            breaks_connections: false,
            vouched: None,
            ejections: None,
            history,
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match self.doubt {
            Doubt::Suspect { failing: None, proven: true, .. } => Standing::Doubted,
            Doubt::Suspect { .. } => Standing::Out,
            Doubt::Ejected { .. } => Standing::Ejected,
            Doubt::None if self.phase == Phase::Up => Standing::Live,
            Doubt::None => Standing::Draining,
        }
    }

    /// When a probe should tell whether the doubt is right; `None` if that is not to be asked by itself. One that was
    /// never probed is due since it `joined`.
    pub(super) fn probe_due(&self, interval: Duration, joined: Instant) -> Option<Instant> {
        let after = |wait: Duration| self.last_probe.map_or(joined, |last| last + wait);
        match self.doubt {
            Doubt::Ejected { until } => Some(until.max(after(interval / 10))),
            // At once, and yet not for each request that fails.
            Doubt::Suspect { failing: None, proven: true, .. } => Some(after(interval / 10)),
            Doubt::Suspect { heard: true, .. } => Some(after(interval)),
            Doubt::Suspect { failing: Some((_, times)), proven: true, .. } => {
                let intervals = 1 << times.saturating_sub(1).min(8);
                Some(after(interval * MOST_INTERVALS.min(intervals)))
            }
            // Whom nobody ever saw is asked again when it speaks again.
            Doubt::None | Doubt::Suspect { .. } => None,
        }
    }

    pub(super) fn fails_probes_since(&self) -> Option<Instant> {
        match self.doubt {
            Doubt::Suspect { failing, .. } => failing.map(|(since, _)| since),
            Doubt::None | Doubt::Ejected { .. } => None,
        }
    }

    pub(super) fn is_on_probation(&self) -> bool {
        matches!(self.doubt, Doubt::Suspect { proven: false, .. })
    }

    /// Whether a heartbeat is by the process that is known; one that does not say who it is could be by anybody.
    pub(super) fn is_by_same_process(&self, beat: &Beat<'_>) -> bool {
        match (&self.incarnation, beat.incarnation) {
            (Some(known), Some(speaks)) => known.id == speaks.id,
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// Another process has taken its place.
    pub(super) fn replace(&mut self, by: Option<Incarnation>) {
        if let Some(before) = std::mem::replace(&mut self.incarnation, by) {
            if self.replaced.len() >= REPLACED_KEPT {
                self.replaced.remove(0);
            }
            self.replaced.push(before.id);
        }
    }
}
