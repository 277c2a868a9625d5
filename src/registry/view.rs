//! What others are told of a dataserver: people, and the gateway that comes next.

use tokio::time::Instant;

use super::entry::Entry;
use super::history::Event;
use super::standing::State;
use super::traffic::Totals;
use crate::addr::Addr;
use crate::presence::{Incarnation, Phase, ProcessId};
use crate::protocol::Protocol;

impl Entry {
    /// Whom another gateway should know, if that is so: it got requests, and is not about to stop.
    pub(super) fn member(&self) -> Option<Member> {
        let story = self.story();
        let serves = story.phase == Phase::Up && !story.is_on_probation();
        serves.then(|| Member {
            addr: self.addr().clone(),
            protocol: self.protocol(),
            incarnation: story.incarnation.clone(),
        })
    }

    pub(super) fn view(&self, running: u64, now: Instant) -> Dataserver {
        Dataserver {
            addr: self.addr().clone(),
            protocol: self.protocol(),
            state: self.standing().into(),
            process: self.process(),
            joined: self.joined(),
            last_heard: now.checked_sub(self.silence(running)).unwrap_or(self.joined()),
            heartbeats: self.heartbeats(),
            totals: self.traffic().totals(),
        }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.story().history.events()
    }
}

/// What one gateway tells the next of a dataserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where its requests go.
    pub addr: Addr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Which process it is, if it says so.
    pub incarnation: Option<Incarnation>,
}

/// A dataserver as people see it, at one moment.
#[derive(Debug, Clone)]
pub struct Dataserver {
    /// Where its requests go.
    pub addr: Addr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether it gets requests.
    pub state: State,
    /// Which process it is, if it says so.
    pub process: Option<ProcessId>,
    /// When its first heartbeat came.
    pub joined: Instant,
    /// When it sent the last heartbeat that came; without the time that the gateway itself stood still.
    pub last_heard: Instant,
    /// How many heartbeats came.
    pub heartbeats: u64,
    /// What came of the requests that were sent to it.
    pub totals: Totals,
}
