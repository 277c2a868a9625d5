//! What Prometheus sees. The only room that names the metrics crates.
//!
//! Nothing is formatted, hashed or looked up where things happen: they are counted in plain numbers, those of
//! the data plane in a [`Worker`] that one worker alone writes to. The exporter gets them when somebody scrapes.

mod names;
mod nsqd;
mod observed;
mod worker;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use metrics::{Key, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use tokio::time::Instant;

use names::{
    CONFIG_GOOD, CONFIG_RELOADS, CONNECTIONS, CONNECTIONS_REFUSED, DATASERVERS, DESCRIPTIONS, DURATION,
    EJECTIONS, EVICTIONS, FROZEN, HEARTBEATS, IN_FLIGHT, JOINS, Kind, LAST_HEARTBEAT, LOG_LINES_LOST, PAUSED,
    PROBES, REQUESTS, RETRIES, SNAPSHOT_WRITES, TLS_EXPIRES, TLS_RELOADS, UPSTREAM_ERRORS, UPSTREAM_REQUESTS,
    WORKER_CONNECTIONS,
};

use crate::lines::Lost;

pub use nsqd::{NsqdLink, NsqdStatus};
pub use observed::{Durations, Observed};
pub use worker::{Protocol, Refused, Retry, Worker};

/// How long a series stays after its last scrape with news: that of a dataserver that left, say. Shorter
/// than the registry keeps its counts, so that one that comes back never seems to count backwards.
const SERIES_KEPT: Duration = Duration::from_secs(5 * 60);

/// How often the exporter's own buffers are emptied when nobody scrapes.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

static METADATA: Metadata<'static> = Metadata::new("gateway", Level::INFO, None);

/// A cheap handle to all counts of one gateway.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    exporter: PrometheusHandle,
    process: metrics_process::Collector,
    heartbeats: Counts,
    last_heartbeat_millis: AtomicU64,
    joins: AtomicU64,
    evictions: Counts,
    config_reloads: Counts,
    config_is_bad: AtomicBool,
    tls_reloads: Counts,
    certificate_expires: Mutex<Option<SystemTime>>,
    probes: Counts,
    ejections: AtomicU64,
    paused_millis: AtomicU64,
    snapshot_writes: Counts,
    snapshot: Mutex<Snapshot>,
    lost_lines: Mutex<Vec<(&'static str, Lost)>>,
    nsqds: nsqd::Nsqds,
    first_connected: OnceLock<Instant>,
    workers: Vec<Arc<Worker>>,
    /// What of the workers' durations the exporter has had is remembered for one publisher at a time.
    publishing: Mutex<()>,
    series_kept: Duration,
    /// When somebody scraped last.
    scraped: Mutex<Instant>,
}

/// Counters of one name that differ in one label, whose values are known beforehand.
struct Counts {
    name: &'static str,
    label: &'static str,
    by_value: BTreeMap<&'static str, AtomicU64>,
}

/// What a scrape needs to know that is not counted here.
pub struct Scrape<'a> {
    /// Dataservers by the name of their state.
    pub dataservers: &'a [(&'static str, usize)],
    /// Whether the set is frozen.
    pub frozen: bool,
}

impl Metrics {
    /// Counts for `workers` workers; heartbeats are counted by these results, evictions by these reasons.
    ///
    /// # Errors
    /// When the exporter refuses its settings, which are constants.
    pub fn new(
        workers: usize,
        results: &[&'static str],
        reasons: &[&'static str],
    ) -> Result<Self, BuildError> {
        Self::keeping(SERIES_KEPT, workers, results, reasons)
    }

    fn keeping(
        series_kept: Duration,
        workers: usize,
        results: &[&'static str],
        reasons: &[&'static str],
    ) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&worker::BUCKETS)?
            .idle_timeout(MetricKindMask::COUNTER | MetricKindMask::GAUGE, Some(series_kept))
            .build_recorder();
        for (name, kind, help) in DESCRIPTIONS {
            let (name, help) = ((*name).into(), SharedString::const_str(help));
            match kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram => recorder.describe_histogram(name, Some(Unit::Seconds), help),
            }
        }
        let process = metrics_process::Collector::default();
        metrics::with_local_recorder(&recorder, || process.describe());
        let inner = Inner {
            exporter: recorder.handle(),
            recorder,
            process,
            heartbeats: Counts::new(HEARTBEATS, "result", results),
            last_heartbeat_millis: AtomicU64::new(0),
            joins: AtomicU64::new(0),
            evictions: Counts::new(EVICTIONS, "reason", reasons),
            config_reloads: Counts::new(CONFIG_RELOADS, "result", &["applied", "unchanged", "rejected"]),
            config_is_bad: AtomicBool::new(false),
            tls_reloads: Counts::new(TLS_RELOADS, "result", &["used", "refused"]),
            certificate_expires: Mutex::default(),
            probes: Counts::new(PROBES, "result", &["passed", "failed", "not_asked"]),
            ejections: AtomicU64::new(0),
            paused_millis: AtomicU64::new(0),
            snapshot_writes: Counts::new(SNAPSHOT_WRITES, "result", &["written", "failed"]),
            snapshot: Mutex::default(),
            lost_lines: Mutex::default(),
            nsqds: nsqd::Nsqds::default(),
            first_connected: OnceLock::new(),
            workers: (0..workers).map(|_| Arc::default()).collect(),
            publishing: Mutex::default(),
            series_kept,
            scraped: Mutex::new(Instant::now()),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A heartbeat message came to this end.
    pub fn heartbeat(&self, result: &'static str) {
        self.inner.heartbeats.add(result);
    }

    /// A heartbeat was taken just now.
    pub fn heartbeat_taken(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.inner.last_heartbeat_millis.store(millis, Ordering::Relaxed);
    }

    /// Whether a heartbeat was ever taken.
    pub fn is_any_heartbeat_taken(&self) -> bool {
        self.inner.last_heartbeat_millis.load(Ordering::Relaxed) > 0
    }

    /// A dataserver joined the set.
    pub fn joined(&self) {
        self.inner.joins.fetch_add(1, Ordering::Relaxed);
    }

    /// A dataserver was removed from the set.
    pub fn evicted(&self, reason: &'static str) {
        self.inner.evictions.add(reason);
    }

    /// A probe came to this end.
    pub fn probed(&self, result: &'static str) {
        self.inner.probes.add(result);
    }

    /// A dataserver was ejected.
    pub fn ejected(&self) {
        self.inner.ejections.fetch_add(1, Ordering::Relaxed);
    }

    /// The gateway itself stood still for so long.
    pub fn paused(&self, pause: Duration) {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.inner.paused_millis.fetch_add(millis, Ordering::Relaxed);
    }

    /// For how long the gateway itself stood still, in all.
    pub fn paused_for(&self) -> Duration {
        Duration::from_millis(self.inner.paused_millis.load(Ordering::Relaxed))
    }

    /// When the certificate that users are shown ends; `None` if they are shown none, or that cannot be told.
    pub fn set_certificate_expires(&self, at: Option<SystemTime>) {
        *self.inner.certificate_expires.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// The live set was written to its file, or could not be.
    pub fn snapshot_written(&self, written: bool) {
        self.inner.snapshot_writes.add(if written { "written" } else { "failed" });
        let mut snapshot = self.inner.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.failing = !written;
        if written {
            snapshot.written_at = Some(SystemTime::now());
        }
    }

    /// How it went with the file of the live set.
    pub fn snapshot(&self) -> Snapshot {
        *self.inner.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The config was read again, and came to this end.
    pub fn config_reloaded(&self, result: &'static str) {
        self.inner.config_reloads.add(result);
        self.inner.config_is_bad.store(result == "rejected", Ordering::Relaxed);
    }

    /// The certificate's files changed, and what they hold now is used or is not good.
    pub fn tls_reloaded(&self, used: bool) {
        self.inner.tls_reloads.add(if used { "used" } else { "refused" });
    }

    /// From now on the lost lines of this log are shown.
    pub fn count_lost_lines(&self, log: &'static str, lost: Lost) {
        self.inner.lost_lines.lock().unwrap_or_else(PoisonError::into_inner).push((log, lost));
    }

    /// The counts that a worker, and no one else, writes to.
    pub fn worker(&self, worker: usize) -> Option<Arc<Worker>> {
        self.inner.workers.get(worker).cloned()
    }

    /// Requests under way on all workers.
    pub fn requests_in_flight(&self) -> u64 {
        self.inner.workers.iter().map(|worker| worker.in_flight()).sum()
    }

    /// What a dataserver did, for the scrape that follows.
    pub fn upstream(
        &self,
        dataserver: &str,
        answers: &[u64; 5],
        errors: impl Iterator<Item = (&'static str, u64)>,
    ) {
        let dataserver = SharedString::from_shared(Arc::from(dataserver));
        for (class, count) in
            ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(answers).filter(|(_, n)| **n > 0)
        {
            self.inner.count(
                UPSTREAM_REQUESTS,
                &[("dataserver", dataserver.clone()), ("code", class.into())],
                *count,
            );
        }
        for (kind, count) in errors.filter(|(_, count)| *count > 0) {
            self.inner.count(
                UPSTREAM_ERRORS,
                &[("dataserver", dataserver.clone()), ("kind", kind.into())],
                count,
            );
        }
    }

    /// The Prometheus text of this moment.
    pub fn render(&self, scrape: &Scrape<'_>) -> String {
        let inner = &*self.inner;
        *inner.scraped.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        inner.heartbeats.publish(inner);
        inner.evictions.publish(inner);
        inner.config_reloads.publish(inner);
        let is_good = !inner.config_is_bad.load(Ordering::Relaxed);
        inner.gauge(CONFIG_GOOD, &[], f64::from(u8::from(is_good)));
        inner.tls_reloads.publish(inner);
        let expires = *inner.certificate_expires.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expires) = expires {
            let since_1970 = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            inner.gauge(TLS_EXPIRES, &[], since_1970.as_secs_f64());
        }
        inner.probes.publish(inner);
        inner.snapshot_writes.publish(inner);
        inner.count(EJECTIONS, &[], inner.ejections.load(Ordering::Relaxed));
        inner.count(PAUSED, &[], inner.paused_millis.load(Ordering::Relaxed) / 1000);
        for (log, lost) in &*inner.lost_lines.lock().unwrap_or_else(PoisonError::into_inner) {
            inner.count(LOG_LINES_LOST, &[("log", (*log).into())], lost.count());
        }
        inner.count(JOINS, &[], inner.joins.load(Ordering::Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
        inner.gauge(LAST_HEARTBEAT, &[], inner.last_heartbeat_millis.load(Ordering::Relaxed) as f64 / 1e3);
        for (state, count) in scrape.dataservers {
            #[expect(clippy::cast_precision_loss, reason = "there are never 2^53 dataservers")]
            inner.gauge(DATASERVERS, &[("state", (*state).into())], *count as f64);
        }
        inner.gauge(FROZEN, &[], f64::from(u8::from(scrape.frozen)));
        self.publish_nsqds();
        self.publish_workers();
        metrics::with_local_recorder(&inner.recorder, || inner.process.collect());
        inner.exporter.render()
    }

    /// Moves what was measured into the exporter and lets it tidy up; to be called every
    /// [`UPKEEP_INTERVAL`], or its buffers grow while nobody scrapes.
    pub fn upkeep(&self) {
        let inner = &*self.inner;
        self.publish_durations();
        inner.exporter.run_upkeep();
        // Old series are dropped as all are rendered, and the count of one that stays never falls: a dataserver that the
        // registry has forgotten begins at 0 when it comes back, and would be shown with its old count until that is passed.
        let scraped = *inner.scraped.lock().unwrap_or_else(PoisonError::into_inner);
        if scraped.elapsed() > inner.series_kept {
            drop(inner.exporter.render());
        }
    }

    fn publish_workers(&self) {
        let inner = &*self.inner;
        for (method, code, count) in worker::sum_requests(&inner.workers) {
            inner.count(REQUESTS, &[("method", method.into()), ("code", code.to_string().into())], count);
        }
        for reason in Retry::ALL {
            let count = inner.workers.iter().map(|worker| worker.retries(reason)).sum();
            inner.count(RETRIES, &[("reason", reason.label().into())], count);
        }
        for protocol in Protocol::ALL {
            let open: u64 = inner.workers.iter().map(|worker| worker.connections(protocol)).sum();
            #[expect(clippy::cast_precision_loss, reason = "there are never 2^53 connections")]
            inner.gauge(CONNECTIONS, &[("protocol", protocol.label().into())], open as f64);
        }
        for (index, worker) in inner.workers.iter().enumerate() {
            let open: u64 = Protocol::ALL.iter().map(|protocol| worker.connections(*protocol)).sum();
            #[expect(clippy::cast_precision_loss, reason = "there are never 2^53 connections")]
            inner.gauge(WORKER_CONNECTIONS, &[("worker", index.to_string().into())], open as f64);
        }
        for reason in Refused::ALL {
            let count = inner.workers.iter().map(|worker| worker.connections_refused(reason)).sum();
            inner.count(CONNECTIONS_REFUSED, &[("reason", reason.label().into())], count);
        }
        #[expect(clippy::cast_precision_loss, reason = "there are never 2^53 requests under way")]
        inner.gauge(IN_FLIGHT, &[], self.requests_in_flight() as f64);
        self.publish_durations();
    }

    fn publish_durations(&self) {
        let _publishing = self.inner.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let histogram = self.inner.recorder.register_histogram(&Key::from_static_name(DURATION), &METADATA);
        for worker in &self.inner.workers {
            worker.take_durations(|mean, count| histogram.record_many(mean, count));
        }
    }
}

impl Inner {
    fn count(&self, name: &'static str, labels: &[(&'static str, SharedString)], count: u64) {
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(count);
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, SharedString)], value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }
}

fn key(name: &'static str, labels: &[(&'static str, SharedString)]) -> Key {
    let labels: Vec<_> = labels.iter().map(|(label, value)| Label::new(*label, value.clone())).collect();
    Key::from_parts(name, labels)
}

impl Counts {
    fn new(name: &'static str, label: &'static str, values: &[&'static str]) -> Self {
        let values: HashSet<_> = values.iter().copied().collect();
        Self { name, label, by_value: values.into_iter().map(|value| (value, AtomicU64::new(0))).collect() }
    }

    fn add(&self, value: &'static str) {
        if let Some(count) = self.by_value.get(value) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn publish(&self, inner: &Inner) {
        for (value, count) in &self.by_value {
            inner.count(self.name, &[(self.label, (*value).into())], count.load(Ordering::Relaxed));
        }
    }
}

/// How it went with the file of the live set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// When it was written last.
    pub written_at: Option<SystemTime>,
    /// Whether it could not be, the last time.
    pub failing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines;

    fn render(metrics: &Metrics) -> String {
        metrics.render(&Scrape { dataservers: &[("live", 2)], frozen: false })
    }

    #[test]
    fn every_described_metric_has_a_help_and_a_type() {
        let metrics = Metrics::new(1, &["joined"], &["expired"]).unwrap();
        let worker = metrics.worker(0).unwrap();
        worker.answered(&http::Method::GET, 200, Duration::from_millis(3));
        let link = metrics.nsqd("127.0.0.1:4150");
        link.set_clock_offset(Some(0.5));
        metrics.upstream("a:1", &[0, 1, 0, 0, 0], std::iter::once(("connect", 1)));
        let settings = lines::Settings { most_bytes: 4096, rest: Duration::ZERO };
        let (log, _writer) = lines::to(&lines::Destination::Stderr, settings).unwrap();
        metrics.count_lost_lines("events", log.lost());
        metrics.set_certificate_expires(Some(SystemTime::now()));
        let text = render(&metrics);
        for (name, ..) in DESCRIPTIONS {
            assert!(text.contains(&format!("# HELP {name} ")), "{name} in {text}");
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} in {text}");
        }
        assert!(text.contains("process_resident_memory_bytes"));
    }

    /// It was forgotten, and begins at 0 when it comes back.
    #[tokio::test]
    async fn one_that_comes_back_after_nobody_has_scraped_is_counted_anew() {
        let kept = Duration::from_millis(20);
        let metrics = Metrics::keeping(kept, 1, &[], &[]).unwrap();
        let shown = |answers: u64| {
            metrics.upstream("a:1", &[0, answers, 0, 0, 0], std::iter::once(("connect", answers)));
            let text = render(&metrics);
            [UPSTREAM_REQUESTS, UPSTREAM_ERRORS].map(|name| {
                let line = text.lines().find(|line| line.starts_with(name)).unwrap();
                line.rsplit(' ').next().unwrap().to_owned()
            })
        };
        assert_eq!(shown(20), ["20", "20"]);
        // The exporter's clock cannot be paused.
        tokio::time::sleep(2 * kept).await;
        metrics.upkeep();
        assert_eq!(shown(3), ["3", "3"]);
        // What every scrape brings stays.
        assert!(render(&metrics).contains("gateway_dataservers{state=\"live\"} 2"));
    }

    #[test]
    fn counts_of_all_workers_are_added_up() {
        let metrics = Metrics::new(2, &[], &[]).unwrap();
        for n in 0..2 {
            let worker = metrics.worker(n).unwrap();
            worker.begin();
            worker.answered(&http::Method::POST, 503, Duration::from_micros(700));
        }
        let text = render(&metrics);
        assert!(text.contains("gateway_requests_total{method=\"POST\",code=\"503\"} 2"), "{text}");
        assert!(text.contains("gateway_requests_in_flight 2"), "{text}");
        assert!(text.contains("gateway_request_duration_seconds_count 2"), "{text}");
        assert!(text.contains("gateway_request_duration_seconds_bucket{le=\"0.0005\"} 0"), "{text}");
        assert!(text.contains("gateway_request_duration_seconds_bucket{le=\"0.001\"} 2"), "{text}");
    }
}
