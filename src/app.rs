//! Builds a gateway, runs it, drains it. The only place that sees everything.

mod demo;
mod supervise;
mod switch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::addr::OwnListeners;
use crate::admin::Admin;
use crate::config::Config;
use crate::embedded_nsq::{self, EmbeddedNsq, Listener};
use crate::metrics::{self, Metrics};
use crate::nsq::{self, Intake, Subscriber};
use crate::registry::Registry;
use crate::{liveness, proxy, server};

pub use demo::demo;

use supervise::Tasks;
use switch::{AdminOnly, Switch};

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("{key}: cannot listen on {addr}: {source}; set {key} to move it")]
    Listen {
        /// The config key that moves it.
        key: &'static str,
        /// What was asked for.
        addr: SocketAddr,
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
    listeners: Vec<std::net::TcpListener>,
    admin_listener: Option<std::net::TcpListener>,
    embedded: Option<EmbeddedNsq>,
    listen: SocketAddr,
}

impl App {
    /// Binds every port.
    ///
    /// # Errors
    /// When one cannot be had: then none is.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let workers = workers(&config)?;
        let listeners = bind("gateway.listen", config.gateway.listen, workers)?;
        let listen = local_addr(&listeners)?;
        let admin_listener = match config.gateway.admin_listen {
            Some(addr) => bind("gateway.admin_listen", addr, 1)?.pop(),
            None => None,
        };
        let embedded = if config.runs_embedded_nsq() {
            Some(bind_embedded(&config).await?)
        } else {
            None
        };
        Ok(Self {
            config,
            listeners,
            admin_listener,
            embedded,
            listen,
        })
    }

    /// Where users' requests come in.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Where the embedded NSQ listens, if there is one.
    pub fn embedded_nsq(&self) -> Option<embedded_nsq::Listen> {
        self.embedded.as_ref().map(EmbeddedNsq::addresses)
    }

    /// Runs until `stop`, then drains. Returns once nothing is left, or `timeouts.drain` is over.
    ///
    /// # Errors
    /// When a part of the gateway cannot be built, or a worker ends that should not.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StartError> {
        let Self {
            config,
            listeners,
            admin_listener,
            embedded,
            listen,
        } = self;
        let workers = listeners.len();
        let registry = Registry::new(config.registry.ttl, config.registry.capacity);
        let metrics = Metrics::new(workers, &nsq::RESULTS, &liveness::REASONS).map_err(anyhow::Error::new)?;
        let admin = Admin::new(
            registry.clone(),
            metrics.clone(),
            config.gateway.admin_allow.clone(),
        );
        let admin_addr = admin_listener
            .as_ref()
            .map(|listener| local_addr([listener]))
            .transpose()?;
        let nsq_addrs = embedded.as_ref().map(EmbeddedNsq::addresses);
        let own: Vec<_> = [Some(listen), admin_addr]
            .into_iter()
            .chain(
                nsq_addrs
                    .iter()
                    .flat_map(|nsq| [Some(nsq.tcp), Some(nsq.http), Some(nsq.lookup)]),
            )
            .flatten()
            .collect();
        let own = OwnListeners::new(own);

        // Control: on the runtime that this runs on.
        let mut tasks = Tasks::default();
        if let Some(embedded) = embedded {
            let stop = tasks.stop_late();
            tasks.spawn(
                "embedded NSQ",
                embedded.run(async move { stop.cancelled().await }),
            );
        }
        let intake = Intake::new(registry.clone(), metrics.clone(), own.clone());
        let embedded_tcp = nsq_addrs.map(|nsq| nsq.tcp.to_string());
        let subscriber = Subscriber::new(&config, embedded_tcp, intake, metrics.clone())?;
        tasks.spawn("NSQ subscriber", subscriber.run(tasks.stop_early()));
        let sweep = liveness::sweep(registry.clone(), metrics.clone(), config.registry.sweep_interval);
        tasks.spawn_endless("sweep", sweep);
        let publisher = registry.clone();
        tasks.spawn_endless(
            "snapshot publisher",
            async move { publisher.publish_changes().await },
        );
        tasks.spawn_endless("metrics upkeep", upkeep(metrics.clone()));

        // Data: each worker on a thread of its own.
        let shared = Shared {
            registry,
            metrics,
            admin: admin.clone(),
            own,
            config: Arc::new(config),
        };
        let stop_workers = CancellationToken::new();
        let (ended, mut worker_ended) = mpsc::unbounded_channel();
        let connections = Arc::new(Semaphore::new(
            shared.config.limits.connections.min(Semaphore::MAX_PERMITS),
        ));
        for (index, listener) in listeners.into_iter().enumerate() {
            let (shared, ended) = (shared.clone(), Ended::new(&ended));
            let (stop, connections, control) = (stop_workers.clone(), connections.clone(), Handle::current());
            spawn_thread(format!("worker-{index}"), move || {
                let result = shared.worker(index, listener, connections, control, stop);
                ended.report(result);
            })?;
        }
        if let Some(listener) = admin_listener {
            let (shared, ended, stop) = (shared.clone(), Ended::new(&ended), stop_workers.clone());
            let control = Handle::current();
            spawn_thread("admin".to_owned(), move || {
                ended.report(shared.admin_worker(listener, control, stop))
            })?;
        }
        drop(ended);
        tracing::info!(%listen, workers, admin = admin_addr.map(tracing::field::display), "gateway listens");
        let result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = worker_ended.recv() => ended.and_then(|_| Err(anyhow::anyhow!("a worker ended by itself"))),
            task = tasks.one_failed() => Err(anyhow::anyhow!("{task} failed")),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "the gateway cannot go on");
        }
        admin.drain();
        tracing::info!(
            drain_seconds = shared.config.timeouts.drain.as_secs_f64(),
            "draining"
        );
        stop_workers.cancel();
        let mut cut_off = 0;
        while let Some(ended) = worker_ended.recv().await {
            cut_off += ended.unwrap_or(0);
        }
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

fn bind(key: &'static str, addr: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, StartError> {
    server::bind(addr, count).map_err(|source| StartError::Listen { key, addr, source })
}

async fn bind_embedded(config: &Config) -> Result<EmbeddedNsq, StartError> {
    let listen = config.nsq.embedded_listen;
    let listen = embedded_nsq::Listen {
        tcp: listen.tcp,
        http: listen.http,
        lookup: listen.lookup,
    };
    EmbeddedNsq::bind(listen, embedded_nsq::Limits::default())
        .await
        .map_err(|error| {
            let key = match error.listener {
                Listener::Tcp => "nsq.embedded_listen.tcp",
                Listener::Http => "nsq.embedded_listen.http",
                Listener::Lookup => "nsq.embedded_listen.lookup",
            };
            StartError::Listen {
                key,
                addr: error.addr,
                source: error.source,
            }
        })
}

fn local_addr<'a>(
    listeners: impl IntoIterator<Item = &'a std::net::TcpListener>,
) -> anyhow::Result<SocketAddr> {
    let listener = listeners
        .into_iter()
        .next()
        .ok_or_else(|| anyhow::anyhow!("there is no listener"))?;
    Ok(listener.local_addr()?)
}

fn spawn_thread(name: String, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name(name).spawn(run)?;
    Ok(())
}

async fn upkeep(metrics: Metrics) {
    loop {
        tokio::time::sleep(metrics::UPKEEP_INTERVAL).await;
        metrics.upkeep();
    }
}

/// Tells how a worker ended, also when it panicked.
struct Ended {
    sender: mpsc::UnboundedSender<anyhow::Result<usize>>,
    reported: bool,
}

impl Ended {
    fn new(sender: &mpsc::UnboundedSender<anyhow::Result<usize>>) -> Self {
        Self {
            sender: sender.clone(),
            reported: false,
        }
    }

    fn report(mut self, result: anyhow::Result<usize>) {
        self.reported = true;
        let _ = self.sender.send(result); // nobody listens once the gateway is gone
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.reported {
            let _ = self.sender.send(Err(anyhow::anyhow!("a worker panicked")));
        }
    }
}

/// What the workers have in common.
#[derive(Clone)]
struct Shared {
    registry: Registry,
    metrics: Metrics,
    admin: Admin,
    own: OwnListeners,
    config: Arc<Config>,
}

impl Shared {
    /// One worker, from its beginning to its end. Returns how many connections were cut off.
    fn worker(
        &self,
        index: usize,
        listener: std::net::TcpListener,
        connections: Arc<Semaphore>,
        control: Handle,
        stop: CancellationToken,
    ) -> anyhow::Result<usize> {
        let config = &*self.config;
        let settings = proxy::Settings::new(config, workers(config)?, self.own.clone());
        let worker = proxy::Worker::new(index, &self.registry, &self.metrics, settings)
            .ok_or_else(|| anyhow::anyhow!("there are no counts for worker {index}"))?;
        let settings = server::Settings {
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            connections,
            counts: self.metrics.worker(index),
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            let serve = async {
                if config.gateway.admin_listen.is_some() {
                    return server::serve(listener, |client| proxy::stack(&worker, client), settings, stop)
                        .await;
                }
                let switch = |client| {
                    let admin = AdminOnly::new(self.admin.clone(), client, control.clone());
                    Switch::new(proxy::stack(&worker, client), admin)
                };
                server::serve(listener, switch, settings, stop).await
            };
            tokio::select! {
                cut_off = serve => Ok(cut_off),
                () = worker.tidy_pool() => Err(anyhow::anyhow!("the pool's upkeep ended")),
            }
        })
    }

    /// The listener of the admin paths, if they have one of their own.
    fn admin_worker(
        &self,
        listener: std::net::TcpListener,
        control: Handle,
        stop: CancellationToken,
    ) -> anyhow::Result<usize> {
        let settings = server::Settings {
            timeouts: self.config.timeouts.clone(),
            limits: self.config.limits.clone(),
            // Of its own: users must not be able to shut operators out.
            connections: Arc::new(Semaphore::new(ADMIN_CONNECTIONS)),
            counts: None,
        };
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            let service = |client| AdminOnly::new(self.admin.clone(), client, control.clone());
            Ok(server::serve(listener, service, settings, stop).await)
        })
    }
}

/// Connections to `gateway.admin_listen` at once.
const ADMIN_CONNECTIONS: usize = 256;
