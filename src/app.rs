//! Builds a gateway, runs it, drains it. The only place that sees everything.

mod crew;
mod demo;
mod listeners;
mod service;
mod start;
mod supervise;
mod switch;
mod workers;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::addr::{Dialable, OwnListeners};
use crate::admin::Admin;
use crate::config::{self, Config};
use crate::embedded_nsq::{self, EmbeddedNsq, Listener};
use crate::liveness::{Liveness, Snapshot};
use crate::metrics::{self, Metrics};
use crate::nsq::{self, Intake, Signed, Subscriber};
use crate::proxy;
use crate::registry::{Ejection, Reason, Registry, Settings};
use crate::server::{Leave, Listeners};
use crate::systemd::{Notifier, Passed};
use crate::telemetry::Log;
use crate::tls::Identity;

pub use demo::demo;

use listeners::Doors;
use supervise::Tasks;
use workers::{Shared, Workers};

/// What the end takes after the last connection has ended, at most: telling NSQ, and a snapshot of the set.
const END: Duration = Duration::from_secs(10);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {addr}: {source}; set {key} to move it")]
    Listen {
        /// The config key that moves it.
        key: &'static str,
        /// What was asked for.
        addr: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// A gateway whose ports are bound and that answers nothing yet.
pub struct App {
    config: Config,
    doors: Doors,
    embedded: Option<EmbeddedNsq>,
    listen: Vec<SocketAddr>,
    tls: Option<Identity>,
}

impl App {
    /// Takes the sockets that the service manager has `passed` on, and binds every other port.
    ///
    /// # Errors
    /// When one cannot be had: then none is.
    pub async fn bind(config: Config, passed: Vec<Passed>) -> Result<Self, StartError> {
        let tls = config.gateway.tls.as_ref().map(identity).transpose()?;
        let doors = Doors::open(&config, passed, workers(&config)?)?;
        let listen = doors.listen.addresses().map_err(anyhow::Error::from)?;
        let embedded = if config.runs_embedded_nsq() { Some(bind_embedded(&config).await?) } else { None };
        Ok(Self { config, doors, embedded, listen, tls })
    }

    /// Where users' requests come in: one address, if the service manager did not pass sockets for several.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where the embedded NSQ listens, if there is one.
    pub fn embedded_nsq(&self) -> Option<embedded_nsq::Listen> {
        self.embedded.as_ref().map(EmbeddedNsq::addresses)
    }

    /// Runs until `stop`, then drains. Returns once nothing is left, or `timeouts.drain` is over.
    ///
    /// # Errors
    /// When a part of the gateway cannot be built, or a worker ends that should not.
    pub async fn run(self, stop: CancellationToken, log: Log) -> Result<(), StartError> {
        let Self { config, doors, embedded, listen, tls } = self;
        let (notifier, workers) = (Notifier::from_env(), workers(&config)?);
        let registry = Registry::new(registry_settings(&config.registry));
        let metrics = Metrics::new(workers, &nsq::RESULTS, &Reason::ALL.map(Reason::label))
            .map_err(anyhow::Error::new)?;
        metrics.count_lost_lines("events", log.lost());
        let admin = Admin::new(registry.clone(), metrics.clone(), &config);
        let admin_listen = doors.admin.as_ref().map(Listeners::addresses).transpose();
        let admin_listen = admin_listen.map_err(anyhow::Error::from)?.unwrap_or_default();
        let nsq_addrs = embedded.as_ref().map(EmbeddedNsq::addresses);
        let nsq_listen = nsq_addrs.iter().flat_map(|nsq| [nsq.tcp, nsq.http, nsq.lookup]);
        let own: Vec<_> = listen.iter().chain(&admin_listen).copied().chain(nsq_listen).collect();
        let dialable = Dialable::new(OwnListeners::new(own), config.registry.allow.clone());

        // Control: on the runtime that this runs on.
        let mut tasks = Tasks::default();
        if let Some(embedded) = embedded {
            tasks.spawn_late("embedded NSQ", |stop| embedded.run(stop.cancelled_owned()));
        }
        let protocol = config.gateway.upstream_protocol;
        let signed = Signed::of(&config).map_err(anyhow::Error::new)?;
        let intake = Intake::new(registry.clone(), metrics.clone(), dialable.clone(), protocol, signed);
        let embedded_nsqd = nsq_addrs.map(|nsq| [nsq.tcp, nsq.http]);
        let subscriber = Subscriber::new(&config, embedded_nsqd, intake, metrics.clone())?;
        tasks.spawn_early("NSQ subscriber", |stop| subscriber.run(stop));
        let liveness =
            Liveness::new(registry.clone(), metrics.clone(), config.registry.clone(), dialable.clone());
        tasks.spawn_endless("liveness", liveness.run());
        if let Some(snapshot) =
            Snapshot::new(registry.clone(), metrics.clone(), &config.registry, dialable.clone())
        {
            // Before anybody is served: the first user should find them.
            snapshot.restore().await;
            tasks.spawn_late("snapshot on disk", |stop| snapshot.keep(stop));
        }
        let publisher = registry.clone();
        tasks.spawn_endless("snapshot publisher", async move { publisher.publish_changes().await });
        tasks.spawn_endless("metrics upkeep", upkeep(metrics.clone()));
        tasks.spawn_endless("page", admin.clone().tell_viewers());
        if let (Some(identity), Some(files)) = (tls.clone(), &config.gateway.tls) {
            let (interval, metrics) = (files.check_interval, metrics.clone());
            let watch = identity.watch(interval, move |used| metrics.tls_reloaded(used));
            tasks.spawn_endless("certificate watch", watch);
        }

        if doors.listen.shared {
            tokio::select! {
                () = start::dataservers_found(&registry, &metrics, &config) => {}
                () = stop.cancelled() => {} // those who have come are answered all the same
            }
        }

        // Data: each worker on a thread of its own.
        let (lame_duck, drain) = (config.timeouts.lame_duck, config.timeouts.drain);
        let settings = proxy::Settings::new(&config, workers, dialable);
        let control = Handle::current();
        let admin_is_apart = doors.admin.is_some();
        let shared = Shared {
            registry,
            metrics,
            admin: admin.clone(),
            settings,
            config,
            tls,
            admin_is_apart,
            control,
        };
        let mut workers = Workers::start(shared, workers, doors.listen, doors.admin)?;
        tracing::info!(
            listen = shown(&listen),
            workers = workers.count(),
            admin = shown(&admin_listen),
            "gateway listens"
        );
        service::attend(&notifier, &mut tasks, &admin, &workers);
        let told_to_stop = async {
            stop.cancelled().await;
            admin.drain();
            notifier.stopping(lame_duck + drain + END);
            tracing::info!(lame_duck_seconds = lame_duck.as_secs_f64(), "not ready from now on");
            tokio::time::sleep(lame_duck).await;
        };
        let result = tokio::select! {
            () = told_to_stop => Ok(()),
            error = workers.one_ended() => Err(error),
            task = tasks.one_failed() => Err(anyhow::anyhow!("{task} failed")),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the gateway cannot go on");
        }
        admin.drain();
        tracing::info!(drain_seconds = drain.as_secs_f64(), "draining");
        let cut_off = workers.stop(Leave::Close).await;
        if cut_off > 0 {
            tracing::warn!(
                connections = cut_off,
                "connections did not end within timeouts.drain and were cut off"
            );
        }
        tasks.stop().await;
        tracing::info!("stopped");
        result.map_err(StartError::Other)
    }
}

fn workers(config: &Config) -> anyhow::Result<usize> {
    match config.gateway.workers {
        0 => Ok(thread::available_parallelism()?.get()),
        workers => Ok(workers),
    }
}

fn registry_settings(config: &config::Registry) -> Settings {
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

/// The files were good when the config was read; they may have changed since.
fn identity(tls: &config::Tls) -> anyhow::Result<Identity> {
    Identity::load(tls.cert.clone(), tls.key.clone()).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(|fault| format!("gateway.tls.{fault}")).collect();
        anyhow::anyhow!("{}", faults.join("; "))
    })
}

async fn bind_embedded(config: &Config) -> Result<EmbeddedNsq, StartError> {
    let listen = config.nsq.embedded_listen;
    let listen = embedded_nsq::Listen { tcp: listen.tcp, http: listen.http, lookup: listen.lookup };
    EmbeddedNsq::bind(listen, embedded_nsq::Limits::default()).await.map_err(|error| {
        let key = match error.listener {
            Listener::Tcp => "nsq.embedded_listen.tcp",
            Listener::Http => "nsq.embedded_listen.http",
            Listener::Lookup => "nsq.embedded_listen.lookup",
        };
        StartError::Listen { key, addr: error.addr.to_string(), source: error.source }
    })
}

/// Addresses for the log; nothing if there is none.
fn shown(addresses: &[SocketAddr]) -> Option<String> {
    let shown: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    (!shown.is_empty()).then(|| shown.join(","))
}

async fn upkeep(metrics: Metrics) {
    loop {
        tokio::time::sleep(metrics::UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}
