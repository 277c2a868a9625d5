//! When a dataserver leaves the set, and when it gets no requests meanwhile.
//!
//! Whether one is live is asked at every pick; here it is decided what counts. One that is silent while others
//! are heard has gone. When nobody can be heard the set is frozen, and each of the silent has to answer a probe; so
//! has whoever failed a request, and whoever is known only from the file that the gateway before this one has left.

mod hold;
mod prober;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::addr::Dialable;
use crate::config::{self, Running};
use crate::metrics::Metrics;
use crate::registry::{Ejection, Entry, Evicted, Probed, Registry, Settings, State, Survey};

pub use snapshot::Snapshot;

use hold::{Hold, Path, Silence};
use prober::{Answer, Prober};

/// Every label of `gateway_probes_total{result}`.
pub const PROBE_RESULTS: [&str; 3] = Answer::LABELS;

/// A pause that is worth a line in the log.
const PAUSE_TOLD: Duration = Duration::from_secs(1);

/// Ticks within what a tick may be late.
const TICKS: u32 = 5;

/// What of the config the registry goes by.
pub fn registry_settings(config: &config::Registry) -> Settings {
    let config::Registry { ttl, capacity, join_rate, trusted_joins, ejection, .. } = *config;
    let ejection = Ejection {
        failures: u32::try_from(ejection.failures).unwrap_or(u32::MAX),
        duration: ejection.duration,
        max_duration: ejection.max_duration,
        percent: ejection.percent,
        answered_5xx: ejection.answered_5xx,
    };
    Settings { ttl, capacity, join_rate, trusted_joins, ejection }
}

/// By the allowance so much time may have passed at the next tick, and nobody is to expire before that.
fn silence(registry: &Registry) -> Silence {
    Silence { ttl: registry.ttl(), margin: registry.tick_allowance() }
}

/// Keeps the live set right, for as long as it is polled.
pub struct Liveness {
    registry: Registry,
    metrics: Metrics,
    config: Running,
    settings: config::Registry,
    prober: Prober,
    hold: Hold,
    silence: Silence,
    /// As it was at the last survey.
    path: Path,
    next_survey: Instant,
    /// No heartbeats are read any more.
    has_left_nsqds: CancellationToken,
}

impl Liveness {
    /// For the dataservers of `registry`, where they may be dialled.
    pub fn new(registry: Registry, metrics: Metrics, config: Running, dialable: Dialable) -> Self {
        let settings = config.now().registry.clone();
        let prober = Prober::new(settings.probe.clone(), dialable);
        let silence = silence(&registry);
        let (hold, path, next_survey) = (Hold::Flowing, Path::Down, Instant::now());
        let has_left_nsqds = CancellationToken::new();
        Self { registry, metrics, config, settings, prober, hold, silence, path, next_survey, has_left_nsqds }
    }

    /// Runs for as long as it is polled. From when the gateway itself `has_left_nsqds`, it is no news that nobody is heard.
    pub async fn run(mut self, has_left_nsqds: CancellationToken) {
        self.has_left_nsqds = has_left_nsqds;
        let (mut ticks, mut sweeps) = self.intervals();
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
                config = self.config.changed() => {
                    self.reconfigure(config.registry.clone(), Instant::now());
                    (ticks, sweeps) = self.intervals();
                }
                (entry, answer) = self.prober.came_back() => self.probed(&entry, answer),
                // They are looked at below, whatever happened.
                () = registry.doubts_raised() => {}
            }
            self.look_at_doubtful();
            self.prober.start_due(Instant::now());
        }
    }

    /// How often to tick, and how often to sweep; the first of each is due at once.
    fn intervals(&self) -> (Interval, Interval) {
        let mut ticks = tokio::time::interval(self.registry.tick_allowance() / TICKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        (ticks, tokio::time::interval(self.settings.sweep_interval))
    }

    fn reconfigure(&mut self, settings: config::Registry, now: Instant) {
        if settings == self.settings {
            return;
        }
        // By the old limits, for the last time: what a longer TTL would forgive is over.
        self.note_pause(now);
        self.sweep(now);
        if settings.allow != self.settings.allow {
            self.tell_of_evicted(self.registry.expel(now, |addr| self.prober.may_ask(addr)));
        }
        self.registry.reconfigure(registry_settings(&settings));
        self.silence = silence(&self.registry);
        self.prober.reconfigure(settings.probe.clone());
        self.settings = settings;
        // Whoever is silent for longer than a shorter TTL is still there to be looked at: when that is most of them, it is
        // not they who fail.
        self.survey(self.path, now);
    }

    fn tick(&mut self, now: Instant) {
        self.note_pause(now);
        let (connected, known) = self.metrics.nsqds_connected();
        let path = Path::of(connected, known);
        if now >= self.next_survey || path != self.path || self.registry.has_changed_since_survey() {
            self.survey(path, now);
        }
    }

    fn note_pause(&self, now: Instant) {
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
    }

    fn survey(&mut self, path: Path, now: Instant) {
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
        if before.frozen() != hold.frozen() && !self.has_left_nsqds.is_cancelled() {
            self.tell_of_freeze(before, &survey);
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

    fn tell_of_freeze(&self, before: Hold, survey: &Survey) {
        let Survey { known, silent, out, is_anybody_heard, .. } = *survey;
        match self.hold.frozen() {
            Some(why) => tracing::warn!(
                reason = why.label(),
                silent,
                dataservers = known,
                "the live set is frozen: {why}; nobody is evicted for silence, each of the silent has to answer a probe"
            ),
            None if before.frozen().is_some() => {
                let ttl_seconds = self.silence.ttl.as_secs_f64();
                match (known + out, is_anybody_heard) {
                    (0, _) => tracing::info!("the live set is empty: it is frozen no longer"),
                    (1, false) => tracing::info!(
                        ttl_seconds,
                        "one dataserver is left and its silence is its own: the live set thaws, it has a TTL to be heard"
                    ),
                    _ => tracing::info!(
                        ttl_seconds,
                        "heartbeats flow again: the live set thaws, everybody has a TTL to be heard"
                    ),
                }
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
        self.tell_of_evicted(self.registry.sweep(now, self.hold.mercy(self.settings.probe.give_up)));
    }

    fn tell_of_evicted(&self, evicted: Vec<Evicted>) {
        let (ttl, ttl_seconds) =
            (humantime::format_duration(self.silence.ttl), self.silence.ttl.as_secs_f64());
        for evicted in evicted {
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
