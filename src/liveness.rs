//! When a dataserver leaves the set, and when it gets no requests meanwhile.
//!
//! Whether one is live is asked at every pick; here it is decided what counts. One that is silent while others
//! are heard has gone. When nobody can be heard the set is frozen, and each of the silent has to answer a probe; so
//! has whoever failed a request, and whoever is known only from the file that the gateway before this one has left.

mod hold;
mod prober;
mod snapshot;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::addr::Dialable;
use crate::config;
use crate::metrics::Metrics;
use crate::registry::{Entry, Probed, Registry, State};

pub use snapshot::Snapshot;

use hold::{Hold, Path, Silence};
use prober::{Answer, Prober};

/// Every label of `gateway_probes_total{result}`.
pub const PROBE_RESULTS: [&str; 3] = Answer::LABELS;

/// A pause that is worth a line in the log.
const PAUSE_TOLD: Duration = Duration::from_secs(1);

/// Ticks within what a tick may be late.
const TICKS: u32 = 5;

/// Keeps the live set right, for as long as it is polled.
pub struct Liveness {
    registry: Registry,
    metrics: Metrics,
    settings: config::Registry,
    prober: Prober,
    hold: Hold,
    silence: Silence,
    /// As it was at the last survey.
    path: Path,
    next_survey: Instant,
}

impl Liveness {
    /// For the dataservers of `registry`, where they may be dialled.
    pub fn new(registry: Registry, metrics: Metrics, settings: config::Registry, dialable: Dialable) -> Self {
        let prober = Prober::new(settings.probe.clone(), dialable);
        // By so much time may have passed at the next tick, and nobody is to expire before that.
        let silence = Silence { ttl: registry.ttl(), margin: registry.tick_allowance() };
        let (hold, path, next_survey) = (Hold::Flowing, Path::Down, Instant::now());
        Self { registry, metrics, settings, prober, hold, silence, path, next_survey }
    }

    /// Runs for as long as it is polled.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.registry.tick_allowance() / TICKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(self.settings.sweep_interval);
        let registry = self.registry.clone();
        loop {
            tokio::select! {
                biased;
                // First: before anything is judged it must be known whether the gateway itself stood still.
                _ = ticks.tick() => self.tick(Instant::now()),
                // Before probes and doubts: of these a flood makes no end.
                _ = sweeps.tick() => {
                    self.sweep(Instant::now());
                    // One that takes longer than its interval leaves as much time to others.
                    sweeps.reset();
                }
                (entry, answer) = self.prober.came_back() => self.probed(&entry, answer),
                // They are looked at below, whatever happened.
                () = registry.doubts_raised() => {}
            }
            self.look_at_doubtful();
            self.prober.start_due(Instant::now());
        }
    }

    fn tick(&mut self, now: Instant) {
        if let Some(pause) = self.registry.tick(now) {
            self.metrics.paused(pause);
            let seconds = pause.as_secs_f64();
            // A busy machine is late by a little again and again.
            if pause >= PAUSE_TOLD {
                self.registry.note_pause(pause);
                tracing::warn!(seconds, "the gateway stood still; silence meanwhile counts for nobody");
            } else {
                tracing::debug!(seconds, "the gateway stood still for a moment");
            }
        }
        let (connected, known) = self.metrics.nsqds_connected();
        let path = Path::of(connected, known);
        if now < self.next_survey && path == self.path && !self.registry.has_changed_since_survey() {
            return;
        }
        self.path = path;
        let survey = self.registry.survey(now, self.silence.late());
        let before = self.hold;
        let hold = before.next(path, &survey, self.silence, now);
        if hold.limit(self.silence) != before.limit(self.silence) {
            // Whoever has expired by the limit until now: a longer one must not bring it back.
            self.sweep(now);
        }
        self.hold = hold;
        self.registry.hold(hold.limit(self.silence), hold.frozen());
        if before.frozen() != hold.frozen() {
            self.tell_of_freeze(before, survey.silent, survey.known);
        }
        let interval = self.settings.probe.interval;
        let silent = self.hold.probed_after(self.silence, interval);
        let silent = silent.map(|silence| self.registry.silent(now, silence)).unwrap_or_default();
        self.prober.watch_silent(silent, now);
        self.next_survey = now
            + match self.hold {
                // Nobody can expire sooner, nor who joins by a heartbeat that was on its way for a margin.
                Hold::Flowing => self.silence.ttl.saturating_sub(survey.longest + self.silence.margin * 2),
                _ => interval.min(self.silence.ttl) / 4,
            };
    }

    fn tell_of_freeze(&self, before: Hold, silent: usize, known: usize) {
        match self.hold.frozen() {
            Some(why) => tracing::warn!(
                reason = why.label(),
                silent,
                dataservers = known,
                "the live set is frozen: {why}; nobody is evicted for silence, each of the silent has to answer a probe"
            ),
            None if before.frozen().is_some() => {
                let ttl_seconds = self.silence.ttl.as_secs_f64();
                tracing::info!(
                    ttl_seconds,
                    "heartbeats flow again: the live set thaws, everybody has a TTL to be heard"
                );
            }
            None => {}
        }
    }

    fn look_at_doubtful(&mut self) {
        for entry in self.registry.take_doubtful() {
            let why = entry.last_event().map(|event| event.what.to_string()).unwrap_or_default();
            if entry.state() == State::Ejected {
                self.metrics.ejected();
                tracing::warn!(dataserver = %entry.addr(), "dataserver {why}");
            } else {
                tracing::debug!(dataserver = %entry.addr(), "to be probed: {why}");
            }
            self.prober.watch_doubtful(entry);
        }
    }

    fn probed(&mut self, entry: &Entry, answer: Answer) {
        self.metrics.probed(answer.label());
        let (result, why) = match answer {
            Answer::Passed => (Ok(()), String::new()),
            Answer::Failed(why) => (Err(why.clone()), why),
            Answer::NotAsked(why) => {
                tracing::debug!(dataserver = %entry.addr(), "cannot be probed: {why}");
                entry.not_probed(Instant::now());
                return;
            }
        };
        let was_newcomer = entry.is_on_probation();
        let dataserver = entry.addr();
        match entry.probed(result, Instant::now()) {
            Probed::Out => {
                tracing::warn!(%dataserver, "dataserver gets no more requests, its probe failed: {why}");
            }
            Probed::Back if was_newcomer => {
                tracing::debug!(%dataserver, "dataserver has passed its first probe");
            }
            Probed::Back => tracing::info!(%dataserver, "dataserver gets requests again, a probe passed"),
            Probed::Unchanged => {}
        }
    }

    fn sweep(&self, now: Instant) {
        let (ttl, ttl_seconds) =
            (humantime::format_duration(self.silence.ttl), self.silence.ttl.as_secs_f64());
        for evicted in self.registry.sweep(now, self.hold.mercy(self.settings.probe.give_up)) {
            let reason = evicted.reason.label();
            self.metrics.evicted(reason);
            tracing::info!(
                dataserver = %evicted.addr,
                reason,
                silent_seconds = evicted.silent_for.as_secs_f64(),
                ttl_seconds,
                known_seconds = evicted.known_for.as_secs_f64(),
                heartbeats = evicted.heartbeats,
                "dataserver {}; its TTL is {ttl}", evicted.what
            );
        }
    }
}
