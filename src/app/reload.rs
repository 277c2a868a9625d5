//! Changing the config while the gateway runs: read it again when its file changes or somebody asks for it, and either
//! all of it holds from then on, or, if there is any fault, the last good one stays.

use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::certificate::Certificate;
use crate::addr::Dialable;
use crate::admin::{Admin, Reload};
use crate::config::{Change, Config, Faults, MAX_FILE, Master};
use crate::file_watch::Watched;
use crate::lines::Lines;
use crate::metrics::Metrics;
use crate::nsq::{Intake, Signed};
use crate::server::Places;
use crate::systemd::Notifier;
use crate::telemetry::LogFilter;

/// Faults that are logged, a line each, and shown.
const TOLD: usize = 100;

/// Where the config comes from.
pub struct Source {
    /// Its file; `None` where there is none, and the defaults hold.
    pub file: Option<PathBuf>,
    /// Whenever something comes here it is read again, changed or not.
    pub asked: mpsc::Receiver<()>,
    /// What `log.filter` says goes here.
    pub log: LogFilter,
}

/// All that is told of another config directly. Tasks that live as long as the gateway follow the [`Master`].
pub(super) struct Rooms {
    pub(super) admin: Admin,
    pub(super) dialable: Dialable,
    pub(super) certificate: Certificate,
    pub(super) places: Places,
    pub(super) intake: Arc<Intake>,
    /// By whom heartbeats have to be signed at present.
    pub(super) signed: Option<Arc<Signed>>,
    /// Whether there is an NSQ inside the gateway.
    pub(super) runs_embedded: bool,
    /// Its file is opened again when somebody asks for a reload, as whoever rotates logs may.
    pub(super) access_log: Option<Lines>,
}

/// Reads the config again.
pub(super) struct Reloader {
    source: Source,
    master: Master,
    rooms: Rooms,
    metrics: Metrics,
    notifier: Notifier,
    /// What was told last: the changes that wait for a restart, or why the file was not taken.
    last: Result<Vec<Change>, Faults>,
    /// The files that it names, if it was not taken.
    refused: Vec<PathBuf>,
}

/// What became of another config.
struct Outcome {
    /// What holds now and did not before.
    applied: Vec<Change>,
    /// What waits for a restart.
    waiting: Vec<Change>,
}

impl Reloader {
    pub(super) fn new(
        source: Source,
        master: Master,
        rooms: Rooms,
        metrics: Metrics,
        notifier: Notifier,
    ) -> Self {
        Self { source, master, rooms, metrics, notifier, last: Ok(Vec::new()), refused: Vec::new() }
    }

    /// Runs for as long as it is polled.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let (paths, watched) = self.watch().await;
            // What was written since they were read is found now, and what is written from now on by the watch.
            self.catch_up().await;
            while self.paths() == paths {
                let interval = self.master.now().reload.check_interval;
                tokio::select! {
                    () = changed(watched.as_ref(), interval) => self.reload("a file has changed").await,
                    Some(()) = self.source.asked.recv() => {
                        if let Some(lines) = &self.rooms.access_log {
                            lines.reopen();
                        }
                        self.reload("somebody asked for it").await;
                    }
                    () = self.rooms.places.settle() => {}
                }
            }
        }
    }

    /// What is watched: the file, those of the keys, whose content matters and not only their names, and all that a config
    /// names which was not taken, since they may be what it lacks. The certificate's are looked after by themselves.
    fn paths(&self) -> Vec<PathBuf> {
        let keys = self.master.now().nsq.heartbeat_key_file.clone();
        self.source.file.iter().cloned().chain(keys).chain(self.refused.iter().cloned()).collect()
    }

    async fn watch(&self) -> (Vec<PathBuf>, Option<Watched>) {
        let paths = self.paths();
        if self.source.file.is_none() {
            return (paths, None);
        }
        let watch = paths.clone();
        let watched = spawn_blocking(move || Watched::read(watch, MAX_FILE).0).await;
        (paths, watched.ok())
    }

    /// As a reload, but of what was told already nothing is said or counted.
    async fn catch_up(&mut self) {
        let Some(file) = self.source.file.clone() else { return };
        let outcome = self.read(&file).await;
        let is_news = match (&outcome, &self.last) {
            (Ok(Outcome { applied, waiting }), Ok(last)) => !applied.is_empty() || waiting != last,
            (Err(faults), Err(last)) => faults != last,
            _ => true,
        };
        if is_news {
            self.tell(&file, "a file has changed", outcome);
        }
    }

    async fn reload(&mut self, why: &str) {
        let Some(file) = self.source.file.clone() else {
            return tracing::warn!(
                "no config file is read again: this gateway goes by the defaults, or is a demo"
            );
        };
        self.notifier.reloading();
        let outcome = self.read(&file).await;
        self.tell(&file, why, outcome);
        self.notifier.ready();
    }

    /// Reads the file, and takes it if it is good.
    async fn read(&mut self, file: &Path) -> Result<Outcome, Faults> {
        let (next, sound) = load(file, self.master.now()).await;
        let named = next.files();
        let outcome = sound.and_then(|()| self.take(next));
        self.refused = if outcome.is_err() { named } else { Vec::new() };
        outcome
    }

    fn tell(&mut self, file: &Path, why: &str, outcome: Result<Outcome, Faults>) {
        let (result, faults) = match &outcome {
            Ok(Outcome { applied, .. }) if applied.is_empty() => ("unchanged", Vec::new()),
            Ok(_) => ("applied", Vec::new()),
            Err(faults) => ("rejected", faults.iter().take(TOLD).cloned().collect()),
        };
        log(file, why, result, &outcome);
        self.metrics.config_reloaded(result);
        self.last = outcome.map(|outcome| outcome.waiting);
        let waiting = self.last.clone().unwrap_or_default();
        self.rooms.admin.reloaded(Reload { at: SystemTime::now(), result, faults, waiting });
    }

    /// Makes it the config that holds. Up to the first line that changes something there is nothing half done.
    fn take(&mut self, next: Config) -> Result<Outcome, Faults> {
        let (running, rooms) = (self.master.now(), &mut self.rooms);
        next.can_follow(rooms.runs_embedded)?;
        let (mut waiting, mut applied): (Vec<_>, Vec<_>) =
            running.changes(&next).into_iter().partition(Change::needs_restart);
        if next.runs_embedded_nsq() != rooms.runs_embedded
            && !waiting.iter().any(|change| change.key == Change::EMBEDDED)
        {
            waiting.push(Change::of_embedded(next.runs_embedded_nsq()));
        }
        let next = next.with_fixed_of(&running);
        let identity = rooms.certificate.of(&next).map_err(Faults::of_tls)?;
        let signed = Signed::of(&next, rooms.signed.as_deref())?;
        if let (Some(old), Some(new)) = (&rooms.signed, &signed)
            && !old.has_same_keys(new)
        {
            applied.push(Change::of_file("nsq.heartbeat_key_file"));
        }
        if applied.is_empty() {
            return Ok(Outcome { applied, waiting });
        }

        if let Ok(false) = self.source.log.set(&next.log.filter)
            && next.log != running.log
        {
            tracing::warn!("log.filter does not count while RUST_LOG is set");
        }
        rooms.signed = signed.map(Arc::new);
        rooms.intake.reconfigure(next.gateway.upstream_protocol, rooms.signed.clone());
        rooms.dialable.set_allow(next.registry.allow.clone());
        rooms.certificate.set(identity);
        rooms.places.set(next.limits.connections);
        // Last: whoever follows finds the rest as it should be.
        self.master.replace(Arc::new(next));
        Ok(Outcome { applied, waiting })
    }
}

async fn load(file: &Path, running: Arc<Config>) -> (Config, Result<(), Faults>) {
    let file = file.to_owned();
    // A file system may take its time.
    let loaded = spawn_blocking(move || Config::load_again(&file, &running)).await;
    loaded.unwrap_or_else(|panicked| (Config::default(), Err(Faults::of_file(&panicked))))
}

async fn changed(watched: Option<&Watched>, interval: std::time::Duration) {
    match watched {
        Some(watched) => watched.changed(interval).await,
        None => pending().await,
    }
}

fn log(file: &Path, why: &str, result: &str, outcome: &Result<Outcome, Faults>) {
    let file = file.display();
    let Outcome { applied, waiting } = match outcome {
        Ok(outcome) => outcome,
        Err(faults) => {
            for fault in faults.iter().take(TOLD) {
                tracing::warn!(%file, line = fault.line, key = fault.path, "a fault in the config: {fault}");
            }
            let faults = faults.iter().count();
            return tracing::warn!(%file, why, faults, "the config is not taken; the last good one stays");
        }
    };
    for Change { key, old, new } in applied {
        tracing::info!(key, old, new, "the config has changed: {key}: {old} → {new}");
    }
    for Change { key, old, new } in waiting {
        tracing::warn!(key, old, new, "this change of the config waits for a restart: {key}: {old} → {new}");
    }
    tracing::info!(%file, why, result, changes = applied.len(), waiting = waiting.len(), "the config was read again");
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::liveness::registry_settings;
    use crate::metrics::Scrape;
    use crate::registry::Registry;

    /// Of a gateway that was started with this file.
    fn reloader(file: &Path) -> Reloader {
        let config = Config::load_for_gateway(file).unwrap();
        let registry = Registry::new(registry_settings(&config.registry));
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let (dialable, places) = (Dialable::default(), Places::new(1));
        let protocol = config.gateway.upstream_protocol;
        let intake = Intake::new(registry.clone(), metrics.clone(), dialable.clone(), protocol, None);
        let master = Master::new(config);
        let rooms = Rooms {
            admin: Admin::new(registry, metrics.clone(), master.running()),
            dialable,
            certificate: Certificate::default(),
            places,
            intake: Arc::new(intake),
            signed: None,
            runs_embedded: true,
            access_log: None,
        };
        let (_, asked) = mpsc::channel(1);
        let source = Source { file: Some(file.to_owned()), asked, log: LogFilter::default() };
        Reloader::new(source, master, rooms, metrics, Notifier::default())
    }

    /// How often it was `applied`, `unchanged` and `rejected`.
    fn results(reloader: &Reloader) -> [u64; 3] {
        let text = reloader.metrics.render(&Scrape { dataservers: &[], frozen: false });
        ["applied", "unchanged", "rejected"].map(|result| {
            let series = format!("gateway_config_reloads_total{{result=\"{result}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
        })
    }

    #[tokio::test]
    async fn an_empty_file_is_a_fault_only_where_something_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        fs::write(&file, "").unwrap();
        let mut reloader = reloader(&file);
        reloader.catch_up().await;
        assert_eq!(results(&reloader), [0, 0, 0], "the start");
        reloader.reload("somebody asked for it").await;
        assert_eq!(results(&reloader), [0, 1, 0]);
        fs::write(&file, "registry: {ttl: 20s}").unwrap();
        reloader.reload("a file has changed").await;
        assert_eq!(results(&reloader), [1, 1, 0]);
        fs::write(&file, "\n").unwrap();
        reloader.reload("a file has changed").await;
        assert_eq!(results(&reloader), [1, 1, 1]);
        assert_eq!(reloader.master.now().registry.ttl.as_secs(), 20);
    }
}
