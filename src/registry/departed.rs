//! Those that have left: what is remembered of them for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::history::{Event, History};
use super::{Beat, Traffic};
use crate::addr::Addr;
use crate::presence::Incarnation;

/// How long a dataserver that left is remembered: its counts go on if it comes back, and why it left can be asked.
pub const KEPT: Duration = Duration::from_secs(10 * 60);

/// How many are remembered that never had a request and never said goodbye: there is little to remember.
const KEPT_UNUSED: usize = 4096;

#[derive(Default)]
pub(super) struct Departed {
    by_addr: Mutex<HashMap<Addr, Past>>,
}

/// What is left of a dataserver.
pub(super) struct Past {
    pub(super) since: Instant,
    pub(super) traffic: Arc<Traffic>,
    pub(super) history: History,
    pub(super) goodbye: Option<Goodbye>,
}

/// The last word of a process: nothing that it said before counts any more.
#[derive(Debug, Clone)]
pub(super) struct Goodbye {
    pub(super) sent: Instant,
    pub(super) incarnation: Option<Incarnation>,
}

impl Goodbye {
    /// Whether a heartbeat was sent before the goodbye, by the same process or an earlier one.
    fn follows(&self, beat: &Beat<'_>) -> bool {
        match (&self.incarnation, beat.incarnation) {
            (Some(gone), Some(speaks)) if gone.id == speaks.id => speaks.seq <= gone.seq,
            _ => beat.sent <= self.sent,
        }
    }
}

impl Departed {
    /// Remembers one, if there is anything worth it and room: at most `capacity`.
    pub(super) fn remember(&self, addr: &Addr, past: Past, capacity: usize) {
        let mut by_addr = self.lock();
        let most = if past.is_unused() { capacity.min(KEPT_UNUSED) } else { capacity };
        if by_addr.len() < most || by_addr.contains_key(addr) {
            by_addr.insert(addr.clone(), past);
        }
    }

    /// Whether this was said before the goodbye of one that left.
    pub(super) fn has_said_goodbye_since(&self, beat: &Beat<'_>) -> bool {
        let by_addr = self.lock();
        by_addr.get(beat.addr).and_then(|past| past.goodbye.as_ref()).is_some_and(|bye| bye.follows(beat))
    }

    /// What to go on with, for one that comes back.
    pub(super) fn take(&self, addr: &Addr) -> (Arc<Traffic>, History) {
        self.lock().remove(addr).map(|past| (past.traffic, past.history)).unwrap_or_default()
    }

    pub(super) fn events(&self, addr: &Addr) -> Option<Vec<Event>> {
        self.lock().get(addr).map(|past| past.history.events())
    }

    pub(super) fn forget_old(&self, now: Instant) {
        self.lock().retain(|_, past| now.saturating_duration_since(past.since) < KEPT);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Addr, Past>> {
        self.by_addr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    fn is_unused(&self) -> bool {
        self.goodbye.is_none() && self.traffic.is_unused()
    }
}
