//! How old a message is, though the clock of its nsqd may be wrong.
//!
//! NSQ stamps a message with the wall clock of the nsqd that took it in. The *lead* of a message is its stamp minus the
//! time at which it was received, and the *offset* of an nsqd is its clock minus the gateway's. A message is received
//! after it was stamped, so its age is the offset minus its lead, and no lead is ever greater than the offset.
//!
//! What is known of the offset, best first:
//! - The nsqd said what time it is: then the offset is within the second that such a date leaves open, and the time that
//!   the answer took. The greatest lead of the last minute tells it more exactly.
//! - Leads that agree for three seconds are those of messages that come as they are published. A backlog that is drained
//!   has leads that grow fast, or, if it was published all at once, that fall as time goes by.
//! - Otherwise a positive lead is certain evidence that the nsqd's clock is ahead; a negative one may be a backlog, and the
//!   clock is taken to be right.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A wall-clock time in nanoseconds since 1970, or the difference of two. It lasts until the year 2262.
type Nanos = i64;

const SECOND: Nanos = 1_000_000_000;

/// Leads that differ by no more are the same clock's.
const TOLERANCE: Nanos = SECOND;

/// For how long leads must agree.
const SETTLED: Duration = Duration::from_secs(3);

/// The greatest lead is that of the last two of these: a clock drifts.
const HALF_WINDOW: Duration = Duration::from_secs(30);

/// The gateway's wall clock as it was at the start, carried on by the monotonic clock: when somebody sets the machine's
/// wall clock, this one does not jump.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    start: Nanos,
    started: Instant,
}

/// The clock of one nsqd, by what came from it.
#[derive(Debug)]
pub(super) struct NsqdClock {
    wall: WallClock,
    /// How long a measurement holds.
    measured_for: Duration,
    measured: Option<Measured>,
    settled: Option<Window>,
    /// Leads that may settle.
    run: Option<Run>,
}

/// Bounds of the offset, by a date that the nsqd sent.
#[derive(Debug)]
struct Measured {
    least: Nanos,
    most: Nanos,
    until: Instant,
}

/// The greatest leads of this half of the window and of the one before.
#[derive(Debug)]
struct Window {
    now: Nanos,
    before: Nanos,
    turned: Instant,
}

/// Leads that agree with the first of them.
#[derive(Debug)]
struct Run {
    first: Nanos,
    greatest: Nanos,
    began: Instant,
    last: Instant,
}

impl WallClock {
    /// Reads the machine's clocks, for the last time.
    pub(super) fn start() -> Self {
        Self { start: since_1970(SystemTime::now()), started: Instant::now() }
    }

    /// Milliseconds since 1970.
    pub(super) fn millis_at(&self, instant: Instant) -> u64 {
        u64::try_from(self.at(instant) / 1_000_000).unwrap_or(0)
    }

    fn at(&self, instant: Instant) -> Nanos {
        let after = instant.saturating_duration_since(self.started);
        let before = self.started.saturating_duration_since(instant);
        self.start.saturating_add(nanos(after)).saturating_sub(nanos(before))
    }
}

impl NsqdClock {
    /// A clock that nothing is known of and that is taken to be right. A measurement of it holds for `measured_for`.
    pub(super) fn new(wall: WallClock, measured_for: Duration) -> Self {
        Self { wall, measured_for, measured: None, settled: None, run: None }
    }

    /// The nsqd answered with this date what it was asked at `asked`; the answer came at `answered`.
    pub(super) fn measured(&mut self, date: SystemTime, asked: Instant, answered: Instant) {
        // It is anything from the time that the date says to a second later, and was so while the answer was awaited.
        let date = since_1970(date);
        let least = date.saturating_sub(self.wall.at(answered));
        let most = date.saturating_add(SECOND).saturating_sub(self.wall.at(asked)).max(least);
        // A level that was settled before the clock was set says nothing any more.
        let agrees =
            |level| (least.saturating_sub(TOLERANCE)..=most.saturating_add(TOLERANCE)).contains(&level);
        self.settled = self.settled.take().filter(|settled| agrees(settled.greatest()));
        self.measured = Some(Measured { least, most, until: answered + self.measured_for });
    }

    /// The nsqd does not say any more what time it is.
    pub(super) fn unmeasured(&mut self) {
        self.measured = None;
    }

    /// How long before `received` the nsqd took in a message, by its `stamp` in nanoseconds since 1970. Zero for one
    /// that seems to come from the future.
    pub(super) fn age(&mut self, stamp: u64, attempts: u16, received: Instant) -> Duration {
        let stamp = Nanos::try_from(stamp).unwrap_or(Nanos::MAX);
        let lead = stamp.saturating_sub(self.wall.at(received));
        // A redelivery has been under way for a while already.
        if attempts <= 1 {
            self.learn(lead, received);
        }
        let age = self.offset(received).unwrap_or(0).saturating_sub(lead);
        Duration::from_nanos(u64::try_from(age).unwrap_or(0))
    }

    /// How far the nsqd's clock is ahead of the gateway's, in seconds; negative if it is behind. `None` while nothing
    /// is known of it.
    pub(super) fn offset_seconds(&self, now: Instant) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a microsecond in a century")]
        self.offset(now).map(|nanos| nanos as f64 / 1e9)
    }

    fn offset(&self, now: Instant) -> Option<Nanos> {
        let settled = self.settled.as_ref().map(Window::greatest);
        let greatest = self.run.as_ref().map(|run| run.greatest);
        match self.measured.as_ref().filter(|measured| now < measured.until) {
            Some(&Measured { least, most, .. }) => {
                // A lead below what is possible is that of an old message and tells nothing: then a clock that may be
                // right is, and one that is wrong makes nobody older than need be.
                let untold = if (least..=most).contains(&0) { 0 } else { least };
                let lead = settled.or(greatest.filter(|lead| *lead >= least)).unwrap_or(untold);
                Some(lead.clamp(least, most))
            }
            None => settled.or(greatest.filter(|lead| *lead > 0)),
        }
    }

    fn learn(&mut self, lead: Nanos, now: Instant) {
        if let Some(settled) = &mut self.settled {
            let ahead = lead.saturating_sub(settled.greatest());
            if ahead > TOLERANCE {
                // The clock was set, or what had settled was none of it.
                (self.settled, self.run) = (None, None);
            } else if ahead >= -TOLERANCE {
                settled.add(lead, now);
                self.run = None;
                return;
            }
        }
        match &mut self.run {
            Some(run) if run.agrees(lead) => {
                run.greatest = run.greatest.max(lead);
                run.last = now;
                if now.saturating_duration_since(run.began) >= SETTLED {
                    self.settled = Some(Window::new(run.greatest, now));
                    self.run = None;
                }
            }
            // A straggler, unless those that it comes behind have ceased to come.
            Some(run) if lead < run.first && now.saturating_duration_since(run.last) < SETTLED => {}
            _ => self.run = Some(Run { first: lead, greatest: lead, began: now, last: now }),
        }
    }
}

impl Window {
    fn new(lead: Nanos, now: Instant) -> Self {
        Self { now: lead, before: lead, turned: now }
    }

    fn add(&mut self, lead: Nanos, now: Instant) {
        let open_for = now.saturating_duration_since(self.turned);
        if open_for >= 2 * HALF_WINDOW {
            *self = Self::new(lead, now);
        } else if open_for >= HALF_WINDOW {
            *self = Self { now: lead, before: self.now, turned: now };
        }
        self.now = self.now.max(lead);
    }

    fn greatest(&self) -> Nanos {
        self.now.max(self.before)
    }
}

impl Run {
    /// With the first one, not with the last: a backlog that is drained slowly has small steps and a long way.
    fn agrees(&self, lead: Nanos) -> bool {
        lead.saturating_sub(self.first).saturating_abs() <= TOLERANCE
    }
}

/// A time before 1970 is 1970.
fn since_1970(time: SystemTime) -> Nanos {
    time.duration_since(SystemTime::UNIX_EPOCH).map(nanos).unwrap_or_default()
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests;
