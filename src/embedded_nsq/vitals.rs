//! Whether a connection is alive: its heartbeats, its silence, and input or output that stalls.
//!
//! Pure; the connection passes the time in and does what the verdict says.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Vitals {
    interval: Option<Duration>,
    stall_timeout: Duration,
    next_heartbeat: Instant,
    last_command: Instant,
    /// Since when the beginning of a command waits for its rest.
    partial_since: Option<Instant>,
    /// Since when output waits without any of it having been taken.
    blocked_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Fine,
    HeartbeatDue,
    /// Two heartbeats went unanswered.
    Silent,
    /// A command never ended, or output never moved.
    Stalled,
}

impl Vitals {
    pub(super) fn new(interval: Option<Duration>, stall_timeout: Duration, now: Instant) -> Self {
        let next_heartbeat = now + interval.unwrap_or_default();
        Self {
            interval,
            stall_timeout,
            next_heartbeat,
            last_command: now,
            partial_since: None,
            blocked_since: None,
        }
    }

    /// Takes over what IDENTIFY settled; true where that changes the rhythm.
    pub(super) fn set_interval(&mut self, interval: Option<Duration>, now: Instant) -> bool {
        let changed = interval != self.interval;
        if changed {
            self.interval = interval;
            self.next_heartbeat = now + interval.unwrap_or_default();
        }
        changed
    }

    /// After input was looked at: whether it held a whole command, and whether a part of one is left.
    pub(super) fn saw_input(&mut self, command: bool, partial: bool, now: Instant) {
        if command {
            self.last_command = now;
            self.partial_since = None;
        }
        self.partial_since = if partial { self.partial_since.or(Some(now)) } else { None };
    }

    /// After output was queued or written: whether any was written, and whether some is left.
    pub(super) fn saw_output(&mut self, progress: bool, pending: bool, now: Instant) {
        if progress {
            self.blocked_since = None;
        }
        self.blocked_since = if pending { self.blocked_since.or(Some(now)) } else { None };
    }

    pub(super) fn check(&mut self, now: Instant) -> Verdict {
        if self.silent_at().is_some_and(|at| now >= at) {
            return Verdict::Silent;
        }
        if self.stalled_at().is_some_and(|at| now >= at) {
            return Verdict::Stalled;
        }
        if let Some(interval) = self.interval.filter(|_| now >= self.next_heartbeat) {
            self.next_heartbeat = now + interval;
            return Verdict::HeartbeatDue;
        }
        Verdict::Fine
    }

    /// When to check again, at the latest.
    pub(super) fn next_check(&self, now: Instant) -> Instant {
        let heartbeat = self.interval.map(|_| self.next_heartbeat);
        let ends = self.silent_at().into_iter().chain(self.stalled_at()).chain(heartbeat);
        ends.chain([now + self.stall_timeout]).min().unwrap_or(now)
    }

    fn silent_at(&self) -> Option<Instant> {
        self.interval.map(|interval| self.last_command + 2 * interval)
    }

    /// With heartbeats, a command that never ends is silence already.
    fn stalled_at(&self) -> Option<Instant> {
        let blocked = self.blocked_since.map(|since| since + self.interval.unwrap_or(self.stall_timeout));
        let partial = self.partial_since.filter(|_| self.interval.is_none());
        partial.map(|since| since + self.stall_timeout).into_iter().chain(blocked).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STALL: Duration = Duration::from_secs(60);

    #[test]
    fn a_silent_client_gets_one_heartbeat_and_then_the_door() {
        let start = Instant::now();
        let mut vitals = Vitals::new(Some(SECOND), STALL, start);
        assert_eq!(vitals.next_check(start), start + SECOND);
        assert_eq!(vitals.check(start), Verdict::Fine);
        assert_eq!(vitals.check(start + SECOND), Verdict::HeartbeatDue);
        assert_eq!(vitals.check(start + SECOND), Verdict::Fine);
        assert_eq!(vitals.next_check(start + SECOND), start + 2 * SECOND);
        assert_eq!(vitals.check(start + 2 * SECOND), Verdict::Silent);
    }

    #[test]
    fn a_command_is_a_sign_of_life_and_a_part_of_one_is_not() {
        let start = Instant::now();
        let mut vitals = Vitals::new(Some(SECOND), STALL, start);
        vitals.saw_input(true, false, start + SECOND);
        assert_ne!(vitals.check(start + 2 * SECOND), Verdict::Silent);
        vitals.saw_input(false, true, start + 2 * SECOND);
        assert_eq!(vitals.check(start + 3 * SECOND), Verdict::Silent);
    }

    #[test]
    fn without_heartbeats_silence_is_fine_but_half_a_command_is_not() {
        let start = Instant::now();
        let mut vitals = Vitals::new(None, STALL, start);
        assert_eq!(vitals.check(start + 100 * STALL), Verdict::Fine);
        vitals.saw_input(false, true, start + 100 * STALL);
        vitals.saw_input(false, true, start + 100 * STALL + SECOND);
        assert_eq!(vitals.check(start + 101 * STALL), Verdict::Stalled);
        vitals.saw_input(true, false, start + 101 * STALL);
        assert_eq!(vitals.check(start + 300 * STALL), Verdict::Fine);
    }

    #[test]
    fn output_must_move_within_one_interval() {
        let start = Instant::now();
        let mut vitals = Vitals::new(Some(SECOND), STALL, start);
        vitals.saw_output(false, true, start);
        vitals.saw_output(true, true, start + SECOND / 2);
        assert_eq!(vitals.check(start + SECOND), Verdict::HeartbeatDue);
        vitals.saw_output(false, true, start + SECOND);
        assert_eq!(vitals.check(start + SECOND * 3 / 2), Verdict::Stalled);
        vitals.saw_output(true, false, start + SECOND * 3 / 2);
        assert_eq!(vitals.check(start + SECOND * 3 / 2), Verdict::Fine);
    }

    #[test]
    fn identify_changes_the_rhythm_once() {
        let start = Instant::now();
        let mut vitals = Vitals::new(Some(SECOND), STALL, start);
        assert!(vitals.set_interval(Some(2 * SECOND), start));
        assert!(!vitals.set_interval(Some(2 * SECOND), start));
        assert_eq!(vitals.check(start + SECOND), Verdict::Fine);
        assert_eq!(vitals.check(start + 2 * SECOND), Verdict::HeartbeatDue);
    }
}
