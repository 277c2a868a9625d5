//! What happens in the whole set, as it happens: its last events, each with a number, so that whoever looks again and
//! again sees each once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Frozen, What};
use crate::addr::Addr;

/// How many events are kept. A flood pushes out what was before it.
const KEPT: usize = 256;

/// Something that happened.
#[derive(Debug, Clone)]
pub struct Happened {
    /// One more than that of the event before.
    pub number: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub news: News,
}

/// What happened, and to whom.
#[derive(Debug, Clone)]
pub enum News {
    /// To one dataserver.
    Dataserver(Addr, What),
    /// From now on this is what silence means.
    Hold(Hold),
    /// The gateway itself stood still for so long.
    Paused(Duration),
}

impl News {
    /// A word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dataserver(_, what) => what.kind(),
            Self::Hold(hold) => hold.label(),
            Self::Paused(_) => "paused",
        }
    }

    /// Whom it happened to, if it was one dataserver.
    pub fn addr(&self) -> Option<&Addr> {
        match self {
            Self::Dataserver(addr, _) => Some(addr),
            Self::Hold(_) | Self::Paused(_) => None,
        }
    }
}

/// A sentence.
impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dataserver(_, what) => what.fmt(f),
            Self::Hold(hold) => hold.fmt(f),
            Self::Paused(pause) => write!(
                f,
                "the gateway stood still for {:.1} s; silence meanwhile counts for nobody",
                pause.as_secs_f64()
            ),
        }
    }
}

/// What silence means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hold {
    /// Who is silent for longer than the TTL leaves.
    #[default]
    Flowing,
    /// Some nsqds are not connected: who is silent for longer than this leaves.
    Degraded(Duration),
    /// Nobody leaves for silence.
    Frozen(Frozen),
    /// As above, until everybody has had a TTL to be heard again.
    Thawing,
}

impl Hold {
    pub(super) fn of(limit: Option<Duration>, frozen: Option<Frozen>, ttl: Duration) -> Self {
        match (frozen, limit) {
            (Some(why), _) => Self::Frozen(why),
            (None, None) => Self::Thawing,
            (None, Some(limit)) if limit > ttl => Self::Degraded(limit),
            (None, Some(_)) => Self::Flowing,
        }
    }

    /// A word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Flowing => "flowing",
            Self::Degraded(_) => "degraded",
            Self::Frozen(_) => "frozen",
            Self::Thawing => "thawing",
        }
    }
}

/// A sentence.
impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flowing => f.write_str("who is silent for longer than the TTL leaves"),
            Self::Degraded(limit) => write!(
                f,
                "not every nsqd is connected: who is silent leaves only after {}, or when its probes fail",
                humantime::format_duration(*limit)
            ),
            Self::Frozen(why) => {
                write!(f, "{why}: nobody is evicted for silence, each of the silent has to answer a probe")
            }
            Self::Thawing => f.write_str("silence counts again after a TTL, in which everybody may be heard"),
        }
    }
}

#[derive(Default)]
pub(super) struct Feed {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The number of the next event.
    next: u64,
    last: VecDeque<Happened>,
    hold: Hold,
    /// `None`: from the beginning.
    hold_since: Option<Instant>,
}

impl Feed {
    pub(super) fn note(&self, at: Instant, news: News) {
        self.lock().note(at, news);
    }

    /// Notes it if it is new.
    pub(super) fn note_hold(&self, at: Instant, hold: Hold) {
        let mut inner = self.lock();
        if inner.hold != hold {
            (inner.hold, inner.hold_since) = (hold, Some(at));
            inner.note(at, News::Hold(hold));
        }
    }

    pub(super) fn hold(&self) -> (Hold, Option<Instant>) {
        let inner = self.lock();
        (inner.hold, inner.hold_since)
    }

    /// Those that are kept of the events from this number on, oldest first.
    pub(super) fn since(&self, number: u64) -> Vec<Happened> {
        let inner = self.lock();
        let new = inner.next.saturating_sub(number);
        let skip = inner.last.len().saturating_sub(usize::try_from(new).unwrap_or(usize::MAX));
        inner.last.iter().skip(skip).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, at: Instant, news: News) {
        if self.last.len() >= KEPT {
            self.last.pop_front();
        }
        self.last.push_back(Happened { number: self.next, at, news });
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(feed: &Feed, since: u64) -> Vec<u64> {
        feed.since(since).iter().map(|happened| happened.number).collect()
    }

    #[test]
    fn who_looks_again_sees_each_event_once_and_the_last_ones_of_a_flood() {
        let (feed, now) = (Feed::default(), Instant::now());
        assert!(numbers(&feed, 0).is_empty());
        for n in 1..=3 {
            feed.note(now, News::Paused(Duration::from_secs(n)));
        }
        assert_eq!(numbers(&feed, 0), [0, 1, 2]);
        assert_eq!(numbers(&feed, 2), [2]);
        assert!(numbers(&feed, 3).is_empty());
        for _ in 0..10 * KEPT {
            feed.note(now, News::Paused(Duration::ZERO));
        }
        let seen = numbers(&feed, 3);
        assert_eq!((seen.len(), seen.last()), (KEPT, Some(&(10 * KEPT as u64 + 2))));
    }

    #[test]
    fn a_hold_is_noted_when_it_changes() {
        let (feed, start) = (Feed::default(), Instant::now());
        let ttl = Duration::from_secs(10);
        let frozen = Hold::of(None, Some(Frozen::NoNsqd), ttl);
        for (seconds, hold) in [Hold::of(Some(ttl), None, ttl), frozen, frozen, Hold::of(None, None, ttl)]
            .into_iter()
            .enumerate()
        {
            feed.note_hold(start + Duration::from_secs(seconds as u64), hold);
        }
        let kinds: Vec<_> = feed.since(0).iter().map(|happened| happened.news.kind()).collect();
        assert_eq!(kinds, ["frozen", "thawing"]);
        assert_eq!(feed.hold(), (Hold::Thawing, Some(start + Duration::from_secs(3))));
        let degraded = Hold::of(Some(ttl * 6), None, ttl);
        assert_eq!((degraded, degraded.label()), (Hold::Degraded(ttl * 6), "degraded"));
    }
}
