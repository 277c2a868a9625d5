//! The threads of the data plane: one a worker, and one for the admin paths if they have a listener of their own.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::thread;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime};
use tokio::sync::{Semaphore, SetOnce, mpsc};
use tokio::time::Instant;

use super::switch::{AdminOnly, Switch};
use crate::admin::Admin;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy;
use crate::proxy::Client;
use crate::registry::Registry;
use crate::server::{self, Leave, Spread};
use crate::tls::Identity;

/// Connections to `gateway.admin_listen` at once.
const ADMIN_CONNECTIONS: usize = 256;

/// What the workers have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) admin: Admin,
    pub(super) settings: proxy::Settings,
    pub(super) config: Config,
    pub(super) tls: Option<Identity>,
    /// The runtime that answers the admin paths.
    pub(super) control: Handle,
}

/// The threads that were started.
pub(super) struct Workers {
    count: usize,
    leave: Arc<SetOnce<Leave>>,
    /// How each ended: the number of connections that were cut off, or why it could not go on.
    ended: mpsc::UnboundedReceiver<anyhow::Result<usize>>,
}

impl Workers {
    /// Starts a thread for each listener.
    pub(super) fn start(
        shared: Shared,
        listeners: Vec<StdListener>,
        admin_listener: Option<StdListener>,
    ) -> anyhow::Result<Self> {
        let (sender, ended) = mpsc::unbounded_channel();
        let workers = Self { count: listeners.len(), leave: Arc::default(), ended };
        let places = shared.config.limits.connections.min(Semaphore::MAX_PERMITS);
        let connections = Arc::new(Semaphore::new(places));
        let spreads = Spread::over(listeners.len());
        for (index, (listener, spread)) in listeners.into_iter().zip(spreads).enumerate() {
            let (shared, connections, leave) = (shared.clone(), connections.clone(), workers.leave.clone());
            let run = move || shared.worker(index, listener, spread, connections, &leave);
            spawn(format!("worker-{index}"), sender.clone(), run)?;
        }
        if let Some(listener) = admin_listener {
            let leave = workers.leave.clone();
            spawn("admin".to_owned(), sender, move || shared.admin_worker(listener, &leave))?;
        }
        Ok(workers)
    }

    /// How many carry requests.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Resolves when one has ended though nobody stopped it.
    pub(super) async fn one_ended(&mut self) -> anyhow::Error {
        match self.ended.recv().await {
            Some(Err(error)) => error,
            Some(Ok(_)) | None => anyhow::anyhow!("a worker ended by itself"),
        }
    }

    /// Lets each drain. Returns how many connections were cut off.
    pub(super) async fn stop(mut self, leave: Leave) -> usize {
        let _ = self.leave.set(leave); // it is set nowhere else
        let mut cut_off = 0;
        while let Some(ended) = self.ended.recv().await {
            cut_off += ended.unwrap_or(0);
        }
        cut_off
    }
}

fn spawn(
    name: String,
    ended: mpsc::UnboundedSender<anyhow::Result<usize>>,
    run: impl FnOnce() -> anyhow::Result<usize> + Send + 'static,
) -> anyhow::Result<()> {
    thread::Builder::new().name(name).spawn(move || {
        let panicked = Panicked(Some(ended));
        let result = run();
        panicked.report(result);
    })?;
    Ok(())
}

/// Reports a panic if nothing else was reported: a worker that is gone must not go unnoticed.
struct Panicked(Option<mpsc::UnboundedSender<anyhow::Result<usize>>>);

impl Panicked {
    fn report(mut self, result: anyhow::Result<usize>) {
        if let Some(ended) = self.0.take() {
            let _ = ended.send(result); // nobody listens once the gateway is gone
        }
    }
}

impl Drop for Panicked {
    fn drop(&mut self) {
        if let Some(ended) = self.0.take() {
            let _ = ended.send(Err(anyhow::anyhow!("a worker panicked")));
        }
    }
}

impl Shared {
    /// One worker, from its beginning to its end.
    fn worker(
        &self,
        index: usize,
        listener: StdListener,
        spread: Spread,
        connections: Arc<Semaphore>,
        leave: &SetOnce<Leave>,
    ) -> anyhow::Result<usize> {
        let config = &self.config;
        let worker = proxy::Worker::new(index, &self.registry, &self.metrics, self.settings.clone())
            .ok_or_else(|| anyhow::anyhow!("there are no counts for worker {index}"))?;
        let settings = server::Settings {
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            connections,
            counts: self.metrics.worker(index),
            proxy_protocol: config.gateway.proxy_protocol.clone(),
            tls: self.tls.clone(),
        };
        on_a_runtime_of_its_own(async {
            let listener = TcpListener::from_std(listener)?;
            let drain_deadline = async {
                leave.wait().await;
                Instant::now() + config.timeouts.drain
            };
            let (proxy, admin) = (worker.clone(), self.admin_service());
            let serve = async {
                if config.gateway.admin_listen.is_some() {
                    let service = move |client| proxy::stack(&proxy, client);
                    return server::serve(vec![listener], service, settings, spread, leave).await;
                }
                let service = move |client| Switch::new(proxy::stack(&proxy, client), admin(client));
                server::serve(vec![listener], service, settings, spread, leave).await
            };
            let serve_and_tunnels = async {
                let (cut_off, deadline) = tokio::join!(serve, drain_deadline);
                cut_off + worker.tunnels_ended(deadline).await
            };
            tokio::select! {
                cut_off = serve_and_tunnels => Ok(cut_off),
                () = worker.tidy_pool() => Err(anyhow::anyhow!("the pool's upkeep ended")),
            }
        })
    }

    /// The listener of the admin paths, if they have one of their own.
    fn admin_worker(&self, listener: StdListener, leave: &SetOnce<Leave>) -> anyhow::Result<usize> {
        let settings = server::Settings {
            timeouts: self.config.timeouts.clone(),
            limits: self.config.limits.clone(),
            // Of its own: users must not be able to shut operators out.
            connections: Arc::new(Semaphore::new(ADMIN_CONNECTIONS)),
            counts: None,
            proxy_protocol: None,
            tls: None,
        };
        on_a_runtime_of_its_own(async {
            let listener = TcpListener::from_std(listener)?;
            let admin = self.admin_service();
            Ok(server::serve(vec![listener], admin, settings, Spread::alone(), leave).await)
        })
    }

    fn admin_service(&self) -> impl Fn(Client) -> AdminOnly + use<> {
        let (admin, control) = (self.admin.clone(), self.control.clone());
        move |client| AdminOnly::new(admin.clone(), client.ip, control.clone())
    }
}

fn on_a_runtime_of_its_own(run: impl Future<Output = anyhow::Result<usize>>) -> anyhow::Result<usize> {
    let runtime: LocalRuntime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(run);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    result
}
