//! Builds a gateway, runs it, drains it. The only place that sees everything.

mod access_log;
mod certificate;
mod crew;
mod demo;
mod hearing;
mod listeners;
mod reload;
mod service;
mod start;
mod succession;
mod supervise;
mod switch;
mod workers;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::addr::{Dialable, OwnListeners};
use crate::admin::Admin;
use crate::config::{Config, Faults, Master, Running};
use crate::embedded_nsq::{self, EmbeddedNsq};
use crate::liveness::{self, Liveness, Snapshot};
use crate::metrics::{self, Metrics};
use crate::nsq::{self, Intake, Signed, Subscriber};
use crate::proxy;
use crate::registry::{Reason, Registry};
use crate::server::{Leave, Listeners, Places};
use crate::systemd::{Notifier, Passed};
use crate::takeover::{Estate, Predecessor};
use crate::telemetry::Log;

pub use demo::demo;

pub use reload::Source;

use access_log::AccessLog;
use certificate::Certificate;
use hearing::Hearing;
use listeners::Doors;
use reload::{Reloader, Rooms};
use succession::{Before, Old, Succession};
use supervise::Tasks;
use workers::{Shared, Workers};

/// What the end takes after the last connection has ended, at most: telling NSQ, and a snapshot of the set.
const END: Duration = Duration::from_secs(10);

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {addr}: {source}; set {key} to move it{}", hint(key))]
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
    listen: Vec<SocketAddr>,
    certificate: Certificate,
    predecessor: Option<Predecessor>,
    source: Option<Source>,
}

/// How a gateway starts.
#[derive(Debug, Default)]
pub struct Start {
    /// Sockets that the service manager has passed on.
    pub passed: Vec<Passed>,
    /// It takes over from a gateway that already listens there.
    pub takeover: bool,
}

impl App {
    /// Takes the sockets that others have made for it, and binds every other port.
    ///
    /// # Errors
    /// When one cannot be had: then none is.
    pub async fn bind(config: Config, Start { passed, takeover }: Start) -> Result<Self, StartError> {
        let certificate = Certificate::default();
        let identity =
            certificate.of(&config).map_err(|faults| anyhow::Error::new(Faults::of_tls(faults)))?;
        certificate.set(identity);
        let workers = workers(&config)?;
        let (doors, predecessor) = if takeover {
            succession::doors(&config, passed, workers).await?
        } else {
            (Doors::open(&config, passed, Estate::default(), workers).await?, None)
        };
        let listen = doors.listen.addresses().map_err(anyhow::Error::from)?;
        Ok(Self { config, doors, listen, certificate, predecessor, source: None })
    }

    /// Reads the config again when this source has another one; without it, it stays as it is.
    #[must_use]
    pub fn reload_from(self, source: Source) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Where users' requests come in: one address, if the service manager did not pass sockets for several.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where the embedded NSQ listens, if there is one.
    pub fn embedded_nsq(&self) -> Option<embedded_nsq::Listen> {
        self.doors.nsq.as_ref().map(EmbeddedNsq::addresses)
    }

    /// Runs until `stop`, then drains. Returns once nothing is left, or `timeouts.drain` is over.
    ///
    /// # Errors
    /// When a part of the gateway cannot be built, or a worker ends that should not.
    pub async fn run(self, stop: CancellationToken, log: Log) -> Result<(), StartError> {
        let Self { config, mut doors, listen, certificate, predecessor, source } = self;
        let (notifier, workers) = (Notifier::from_env(), workers(&config)?);
        let registry = Registry::new(liveness::registry_settings(&config.registry));
        let metrics = Metrics::new(workers, &nsq::RESULTS, &Reason::ALL.map(Reason::label))
            .map_err(anyhow::Error::new)?;
        metrics.count_lost_lines("events", log.lost());
        let master = Master::new(config);
        let (config, now) = (master.running(), master.now());
        let admin = Admin::new(registry.clone(), metrics.clone(), config.clone());
        let admin_listen = doors.admin.as_ref().map(Listeners::addresses).transpose();
        let admin_listen = admin_listen.map_err(anyhow::Error::from)?.unwrap_or_default();
        let nsq_addrs = doors.nsq.as_ref().map(EmbeddedNsq::addresses);
        let nsq_listen = nsq_addrs.iter().flat_map(|nsq| [nsq.tcp, nsq.http, nsq.lookup]);
        let own: Vec<_> = listen.iter().chain(&admin_listen).copied().chain(nsq_listen).collect();
        let dialable = Dialable::new(OwnListeners::new(own), now.registry.allow.clone());

        let succession = Succession::new(&mut doors, &listen, registry.clone(), &now);
        let old = Old::take_in(predecessor, &registry, &dialable)?;

        // Data: each worker on a thread of its own, which waits.
        let access_log = AccessLog::start(&now.log, &metrics)?;
        let fixed = proxy::Fixed::new(workers, dialable.clone(), access_log.lines());
        let control = Handle::current();
        let admin_is_apart = doors.admin.is_some();
        let places = Places::new(now.limits.connections);
        let shared = Shared {
            registry: registry.clone(),
            metrics: metrics.clone(),
            admin: admin.clone(),
            fixed,
            config: config.clone(),
            certificate: certificate.clone(),
            places: places.semaphore(),
            admin_is_apart,
            control,
        };
        let waiting = doors.listen.shared;
        let mut workers = Workers::start(shared, workers, doors.listen, doors.admin).await?;

        // Control: on the runtime that this runs on.
        let mut tasks = Tasks::default();
        let signed = Signed::of(&now, None).map_err(anyhow::Error::new)?.map(Arc::new);
        let protocol = now.gateway.upstream_protocol;
        let intake =
            Intake::new(registry.clone(), metrics.clone(), dialable.clone(), protocol, signed.clone());
        let intake = Arc::new(intake);
        let embedded_nsqd = nsq_addrs.map(|nsq| [nsq.tcp, nsq.http]);
        let subscriber = Subscriber::new(config.clone(), embedded_nsqd, intake.clone(), metrics.clone())?;
        let mut hearing = Hearing::new(doors.nsq.take(), subscriber, now.nsq.channel.is_none());
        hearing.start(&mut tasks, old.is_some());
        let liveness = Liveness::new(registry.clone(), metrics.clone(), config.clone(), dialable.clone());
        tasks.spawn_endless("liveness", liveness.run(tasks.clients_are_stopped()));
        let publisher = registry.clone();
        tasks.spawn_endless("snapshot publisher", async move { publisher.publish_changes().await });
        tasks.spawn_endless("metrics upkeep", upkeep(metrics.clone()));
        tasks.spawn_endless("page", admin.clone().tell_viewers());
        let watch = certificate.clone().watch(config.clone(), metrics.clone());
        tasks.spawn_endless("certificate watch", watch);

        // Before anybody is served: the first user should find dataservers.
        let snapshot = Snapshot::new(registry.clone(), metrics.clone(), config.clone(), dialable.clone());
        let before = Before { old, snapshot: &snapshot, waiting };
        let served = before.served(&registry, &metrics, &now, &stop).await;
        if !matches!(served, Ok(true)) {
            tasks.stop().await;
            return served.map(|_| ()).map_err(StartError::Other);
        }
        hearing.start(&mut tasks, false);
        tasks.spawn_until_handed_over("snapshot on disk", |stop| snapshot.keep(stop));
        workers.begin();
        tracing::info!(
            listen = shown(&listen),
            workers = workers.count(),
            admin = shown(&admin_listen),
            "gateway listens"
        );
        service::attend(&notifier, &mut tasks, &admin, &workers);
        if let Some(source) = source {
            let runs_embedded = nsq_addrs.is_some();
            let (admin, notifier, access_log) = (admin.clone(), notifier.clone(), access_log.lines());
            let rooms =
                Rooms { admin, dialable, certificate, places, intake, signed, runs_embedded, access_log };
            let reloader = Reloader::new(source, master, rooms, metrics, notifier);
            tasks.spawn_endless("config reload", reloader.run());
        }
        let (result, how) = {
            let mut taken_over = pin!(succession.taken_over());
            let result = tokio::select! {
                () = told_to_stop(&stop, &admin, &config, &notifier, &succession) => Ok(()),
                () = &mut taken_over => Ok(()),
                error = workers.one_ended() => Err(error),
                task = tasks.one_failed() => Err(anyhow::anyhow!("{task} failed")),
            };
            // Whoever has the sockets, and is not ready yet, will be.
            (result, succession.leave())
        };
        let result = result.inspect_err(|error| tracing::error!(%error, "the gateway cannot go on"));
        admin.drain();
        let (_, drain) = drain_times(&config.now());
        notifier.stopping(drain + END);
        wind_up(workers, how, succession, tasks, drain).await;
        access_log.flush();
        result.map_err(StartError::Other)
    }
}

/// What else helps where an address is taken.
fn hint(key: &str) -> &'static str {
    if key == "gateway.listen" { ", or replace the gateway that runs there with --takeover" } else { "" }
}

fn workers(config: &Config) -> anyhow::Result<usize> {
    match config.gateway.workers {
        0 => Ok(thread::available_parallelism()?.get()),
        workers => Ok(workers),
    }
}

/// Resolves when it was told to stop and need not serve on: for load balancers, or because another gateway is not ready yet.
async fn told_to_stop(
    stop: &CancellationToken,
    admin: &Admin,
    config: &Running,
    notifier: &Notifier,
    succession: &Succession,
) {
    stop.cancelled().await;
    admin.drain();
    let (lame_duck, drain) = drain_times(&config.now());
    notifier.stopping(lame_duck + drain + END);
    tracing::info!(lame_duck_seconds = lame_duck.as_secs_f64(), "not ready from now on");
    tokio::time::sleep(lame_duck).await;
    if succession.is_under_way() {
        notifier.stopping(succession::TO_BE_READY + drain + END);
        succession.given_up().await;
    }
}

/// Lets everything end, the workers within `drain`.
async fn wind_up(workers: Workers, how: Leave, succession: Succession, mut tasks: Tasks, drain: Duration) {
    if how == Leave::HandOver {
        tasks.hand_over().await;
    }
    // With its copies of the sockets, which would keep the port. Whoever has taken over serves from here on.
    drop(succession);
    tracing::info!(drain_seconds = drain.as_secs_f64(), "draining");
    let (users, operators) = workers.stop(how).await;
    // Side by side: whoever is stuck at one of them holds up the end once.
    let (operators, ()) = tokio::join!(operators.stop(), tasks.stop());
    let cut_off = users + operators;
    if cut_off > 0 {
        tracing::warn!(
            connections = cut_off,
            "connections did not end within timeouts.drain and were cut off"
        );
    }
    tracing::info!("stopped");
}

/// How long it serves on after it was told to stop, and how long what is under way then has to end.
fn drain_times(Config { timeouts, .. }: &Config) -> (Duration, Duration) {
    (timeouts.lame_duck, timeouts.drain)
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
