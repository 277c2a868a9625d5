//! What came of the requests that were sent to a dataserver.
//!
//! Each worker counts in a [`Shard`] of its own: only it writes there, so an addition is a plain load and
//! store and no cache line travels between cores. Whoever wants to know adds the shards up.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// This process, and the system, have no more file descriptors.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Why a dataserver gave no answer, or not all of it. The labels of `gateway_upstream_errors_total{kind}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Failure {
    /// Its host name could not be resolved, or only to addresses that must not be dialled.
    Resolve,
    /// No connection: refused, unreachable.
    Connect,
    /// No connection, because the gateway itself has no file descriptor or port left for one.
    NoSocket,
    /// No connection within `timeouts.connect`.
    ConnectTimeout,
    /// The connection ended before the head of the answer.
    Closed,
    /// Its machine was not heard from for `timeouts.unacknowledged` before the head of the answer.
    Lost,
    /// No head of an answer within `timeouts.response_head`.
    HeadTimeout,
    /// What it sent is not HTTP.
    Protocol,
    /// The answer's body ended early or stalled.
    Body,
    /// It takes no more requests for now: every HTTP/2 stream that it allows is in use, or it refused this one.
    Refused,
}

impl Failure {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Resolve,
        Self::Connect,
        Self::NoSocket,
        Self::ConnectTimeout,
        Self::Closed,
        Self::Lost,
        Self::HeadTimeout,
        Self::Protocol,
        Self::Body,
        Self::Refused,
    ];

    /// Why there is no connection. What the gateway could not ask for was not refused, and what was reset had been taken.
    pub fn to_connect(error: &io::Error) -> Self {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory};
        let is_ours = matches!(error.kind(), AddrInUse | AddrNotAvailable | OutOfMemory)
            || matches!(error.raw_os_error(), Some(EMFILE | ENFILE));
        match error.kind() {
            _ if is_ours => Self::NoSocket,
            io::ErrorKind::ConnectionReset => Self::Closed,
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Connect,
        }
    }

    /// The label of `gateway_upstream_errors_total{kind}`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::NoSocket => "no_socket",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed => "closed",
            Self::Lost => "lost",
            Self::HeadTimeout => "head_timeout",
            Self::Protocol => "protocol",
            Self::Body => "body",
            Self::Refused => "refused",
        }
    }
}

/// The shards of one dataserver, at most one a worker.
#[derive(Default)]
pub struct Traffic {
    shards: Mutex<Vec<(usize, Arc<Shard>)>>,
}

/// One worker's counts for one dataserver. Only that worker may add.
#[derive(Default)]
pub struct Shard {
    /// Answers by class: 1xx to 5xx.
    answers: [AtomicU64; 5],
    failures: [AtomicU64; Failure::ALL.len()],
    in_flight: AtomicU64,
    /// Answers that have ended, and the nanoseconds that they took together.
    ended: AtomicU64,
    nanos: AtomicU64,
}

/// A sum over the shards at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers by class: 1xx to 5xx.
    pub answers: [u64; 5],
    /// Failures in the order of [`Failure::ALL`].
    pub failures: [u64; Failure::ALL.len()],
    /// Requests sent whose answer has not ended.
    pub in_flight: u64,
    /// Answers that have ended; tunnels do not count.
    pub ended: u64,
    /// The time from when each of these requests was sent to the end of its answer, summed up.
    pub took: Duration,
}

impl Totals {
    /// Requests that were answered.
    pub fn requests(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// Requests that failed.
    pub fn failures(&self) -> u64 {
        self.failures.iter().sum()
    }
}

impl Traffic {
    /// The shard of a worker, made when it is first asked for.
    pub fn shard(&self, worker: usize) -> Arc<Shard> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, shard)) = shards.iter().find(|(owner, _)| *owner == worker) {
            return shard.clone();
        }
        let shard = Arc::new(Shard::default());
        shards.push((worker, shard.clone()));
        shard
    }

    /// Adds the shards up.
    pub fn totals(&self) -> Totals {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        let mut totals = Totals::default();
        for (_, shard) in shards.iter() {
            for (sum, part) in totals.answers.iter_mut().zip(&shard.answers) {
                *sum += part.load(Ordering::Relaxed);
            }
            for (sum, part) in totals.failures.iter_mut().zip(&shard.failures) {
                *sum += part.load(Ordering::Relaxed);
            }
            totals.in_flight += shard.in_flight.load(Ordering::Relaxed);
            totals.ended += shard.ended.load(Ordering::Relaxed);
            totals.took += Duration::from_nanos(shard.nanos.load(Ordering::Relaxed));
        }
        totals
    }

    pub(super) fn is_unused(&self) -> bool {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Shard {
    /// An answer with this status came.
    pub fn answered(&self, status: u16) {
        // What is over 599 is no better than a 5xx.
        let class = usize::from(status / 100).saturating_sub(1).min(self.answers.len() - 1);
        if let Some(class) = self.answers.get(class) {
            add(class, 1);
        }
    }

    /// No answer came, or not all of it.
    pub fn failed(&self, kind: Failure) {
        if let Some(count) = self.failures.get(kind as usize) {
            add(count, 1);
        }
    }

    /// A request goes out.
    pub fn begin(&self) {
        add(&self.in_flight, 1);
    }

    /// Its answer has ended, one way or another.
    pub fn end(&self) {
        add(&self.in_flight, u64::MAX);
    }

    /// An answer has ended, so long after its request was sent.
    pub fn took(&self, time: Duration) {
        add(&self.nanos, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        add(&self.ended, 1);
    }

    /// Requests this worker has under way at this dataserver.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// With a single writer this needs no locked instruction.
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}
