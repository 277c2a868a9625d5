//! What happened to a dataserver, and why: its last events.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Failure, Reason};
use crate::presence::ProcessId;

/// How many events are kept of a dataserver.
const KEPT: usize = 32;

/// Something that happened to a dataserver.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// What, and why.
    pub what: What,
}

/// What happened, and why. Its [`Display`](fmt::Display) is a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Its first heartbeat came, by this nsqd.
    Joined(Arc<str>),
    /// As above, when so many came that each has to pass a probe first.
    JoinedOnProbation(Arc<str>),
    /// It was in the set that the gateway before this one has left on disk.
    Restored,
    /// A heartbeat came after a silence that was long.
    Gap(Duration),
    /// Another process has taken its place.
    Replaced(ProcessId),
    /// A process whose place was taken is still there.
    Conflict(ProcessId),
    /// It says that it is about to stop.
    Draining,
    /// It says that it serves, after it had said that it drains.
    Serving,
    /// A request to it failed in a way that makes it doubtful.
    Doubted(Failure),
    /// A probe failed, for this reason.
    ProbeFailed(Box<str>),
    /// A probe passed.
    ProbePassed,
    /// It failed so many requests in a row that it gets none for this time.
    Ejected(u32, Duration),
    /// It gets none for this time because it has passed a probe and failed the next request all the same.
    Refuted(Duration),
    /// It left the set.
    Left {
        /// Why.
        reason: Reason,
        /// How long it had been silent.
        silence: Duration,
        /// The nsqd that its last heartbeat came by; `None` if none came.
        via: Option<Arc<str>>,
    },
}

impl What {
    /// A word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Joined(_) | Self::JoinedOnProbation(_) => "joined",
            Self::Restored => "restored",
            Self::Gap(_) => "gap",
            Self::Replaced(_) => "replaced",
            Self::Conflict(_) => "conflict",
            Self::Draining => "draining",
            Self::Serving => "serving",
            Self::Doubted(_) => "suspect",
            Self::ProbeFailed(_) => "probe_failed",
            Self::ProbePassed => "probe_passed",
            Self::Ejected(..) | Self::Refuted(_) => "ejected",
            Self::Left { reason: Reason::Goodbye, .. } => "left",
            Self::Left { .. } => "evicted",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined(nsqd) => write!(f, "joined: a heartbeat came by {nsqd}"),
            Self::JoinedOnProbation(nsqd) => {
                write!(
                    f,
                    "joined: a heartbeat came by {nsqd}; so many joined that it has to pass a probe first"
                )
            }
            Self::Restored => f.write_str("restored from the snapshot; it has to pass a probe first"),
            Self::Gap(silence) => write!(f, "heard again after {:.1} s of silence", silence.as_secs_f64()),
            Self::Replaced(id) => write!(f, "another process, {id}, has taken its place"),
            Self::Conflict(id) => {
                write!(f, "process {id}, whose place was taken, still claims this address")
            }
            Self::Draining => f.write_str("says that it is about to stop"),
            Self::Serving => f.write_str("says that it serves again"),
            Self::Doubted(failure) => write!(f, "suspect: a request to it failed ({})", failure.label()),
            Self::ProbeFailed(why) => write!(f, "a probe failed: {why}"),
            Self::ProbePassed => f.write_str("a probe passed"),
            Self::Ejected(failures, lasts) => write!(
                f,
                "ejected for {} after {failures} failed requests in a row",
                humantime::format_duration(*lasts)
            ),
            Self::Refuted(lasts) => write!(
                f,
                "ejected for {}: it passes probes and fails requests",
                humantime::format_duration(*lasts)
            ),
            Self::Left { reason: Reason::Goodbye, .. } => f.write_str("left: it said goodbye"),
            Self::Left { reason: Reason::NotAllowed, .. } => {
                f.write_str("evicted: its address is in none of the networks that dataservers may be in")
            }
            Self::Left { reason, silence, via } => {
                write!(f, "evicted: silent for {:.1} s", silence.as_secs_f64())?;
                match via {
                    Some(nsqd) => write!(f, ", last heard via {nsqd}")?,
                    None => f.write_str(", never heard by this gateway")?,
                }
                if *reason == Reason::ProbeFailed { f.write_str("; its probes fail") } else { Ok(()) }
            }
        }
    }
}

/// The last events, oldest first.
#[derive(Debug, Default, Clone)]
pub(super) struct History(VecDeque<Event>);

impl History {
    pub(super) fn note(&mut self, at: Instant, what: What) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        // Most dataservers have one event in their life; a flood of them should not cost more than that.
        self.0.reserve_exact(1);
        self.0.push_back(Event { at, what });
    }

    pub(super) fn last(&self) -> Option<&Event> {
        self.0.back()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.0.iter().cloned().collect()
    }
}
