//! The threads of the data plane: one a worker, and one for the admin paths if they have a listener of their own.

use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime};
use tokio::sync::{Semaphore, SetOnce};
use tokio::time::Instant;

use super::certificate::Certificate;
use super::crew::{Crew, Post, Pulse};
use super::switch::{AdminOnly, Switch};
use crate::admin::Admin;
use crate::config::{Config, Running, Timeouts};
use crate::metrics::Metrics;
use crate::proxy;
use crate::proxy::Client;
use crate::registry::Registry;
use crate::server::{self, Http, Leave, Listeners, Spread};

/// Connections to `gateway.admin_listen` at once.
const ADMIN_CONNECTIONS: usize = 256;

/// The longest that what is under way there may hold up the end.
const ADMIN_DRAIN: Duration = Duration::from_secs(1);

/// What the workers have in common.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) registry: Registry,
    pub(super) metrics: Metrics,
    pub(super) admin: Admin,
    pub(super) fixed: proxy::Fixed,
    pub(super) config: Running,
    pub(super) certificate: Certificate,
    /// For connections from users.
    pub(super) places: Arc<Semaphore>,
    /// The admin paths have listeners of their own.
    pub(super) admin_is_apart: bool,
    /// The runtime that answers the admin paths.
    pub(super) control: Handle,
}

/// The threads of the data plane.
pub(super) struct Workers {
    users: Crew,
    admin: Option<Crew>,
}

impl Workers {
    /// Starts `count` threads for the users' listeners, and one for those of the admin paths. They accept nobody before they
    /// are told to [begin](Self::begin), and have done by now all that may fail.
    pub(super) async fn start(
        shared: Shared,
        count: usize,
        listeners: Listeners,
        admin_listeners: Option<Listeners>,
    ) -> anyhow::Result<Self> {
        let mut users = Crew::new(listeners.shared);
        let each = listeners.for_each_of(count)?.into_iter().zip(Spread::over(count));
        for (index, (listeners, spread)) in each.enumerate() {
            let shared = shared.clone();
            let run = move |post| shared.worker(index, listeners, spread, post);
            users.spawn(format!("worker-{index}"), run)?;
        }
        let mut workers = Self { users, admin: None };
        if let Some(listeners) = admin_listeners {
            let admin = workers.admin.insert(Crew::new(listeners.shared));
            let run = move |post| shared.admin_worker(listeners.into_sockets(), post);
            admin.spawn("admin".to_owned(), run)?;
            admin.all_answer().await?;
        }
        workers.users.all_answer().await?;
        Ok(workers)
    }

    /// From now on they serve.
    pub(super) fn begin(&self) {
        self.users.begin();
        self.admin.iter().for_each(Crew::begin);
    }

    /// How many carry requests.
    pub(super) fn count(&self) -> usize {
        self.users.len()
    }

    /// What tells whether those that carry requests still answer.
    pub(super) fn pulse(&self) -> Pulse {
        self.users.pulse()
    }

    /// Resolves when one has ended though nobody stopped it.
    pub(super) async fn one_ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.users.one_ended() => error,
            Some(error) = async { Some(self.admin.as_mut()?.one_ended().await) } => error,
        }
    }

    /// Lets those drain that carry requests. Returns how many connections were cut off, and what is left: operators may ask
    /// until the last user has gone, if there is nobody else who answers them.
    pub(super) async fn stop(self, how: Leave) -> (usize, Operators) {
        let Self { users, admin } = self;
        users.leave(how);
        if how == Leave::HandOver
            && let Some(admin) = &admin
        {
            admin.leave(how);
        }
        (users.ended().await, Operators { admin, how })
    }
}

/// What serves the admin paths, if they have a listener of their own.
pub(super) struct Operators {
    admin: Option<Crew>,
    how: Leave,
}

impl Operators {
    /// Lets it drain. Returns how many connections were cut off.
    pub(super) async fn stop(self) -> usize {
        let Self { admin: Some(admin), how } = self else { return 0 };
        admin.leave(how);
        admin.ended().await
    }
}

impl Shared {
    /// One worker, from its beginning to its end.
    fn worker(
        &self,
        index: usize,
        listeners: Vec<StdListener>,
        spread: Spread,
        post: Post,
    ) -> anyhow::Result<usize> {
        let mut config = self.config.clone();
        let now = config.now();
        let settings = proxy::Settings::new(&now);
        let worker = proxy::Worker::new(index, &self.registry, &self.metrics, self.fixed.clone(), settings)
            .ok_or_else(|| anyhow::anyhow!("there are no counts for worker {index}"))?;
        on_a_runtime_of_its_own(listeners, post, async |listeners, leave| {
            let http = Http::new(self.users(&now, index));
            let follow_config = async {
                loop {
                    let now = config.changed().await;
                    worker.reconfigure(proxy::Settings::new(&now));
                    http.reconfigure(self.users(&now, index));
                }
            };
            let drain_deadline = async {
                leave.wait().await;
                Instant::now() + self.config.now().timeouts.drain
            };
            let (proxy, admin, places) = (worker.clone(), self.admin_service(), self.places.clone());
            let serve = async {
                if self.admin_is_apart {
                    let service = move |client| proxy::stack(&proxy, client);
                    return server::serve(listeners, service, &http, places, spread, leave).await;
                }
                let service = move |client| Switch::new(proxy::stack(&proxy, client), admin(client));
                server::serve(listeners, service, &http, places, spread, leave).await
            };
            let serve_and_tunnels = async {
                let (cut_off, deadline) = tokio::join!(serve, drain_deadline);
                cut_off + worker.tunnels_ended(deadline).await
            };
            tokio::select! {
                cut_off = serve_and_tunnels => Ok(cut_off),
                () = worker.tidy_pool() => Err(anyhow::anyhow!("the pool's upkeep ended")),
                never = follow_config => never,
            }
        })
    }

    /// The listener of the admin paths, if they have one of their own.
    fn admin_worker(&self, listeners: Vec<StdListener>, post: Post) -> anyhow::Result<usize> {
        let mut config = self.config.clone();
        on_a_runtime_of_its_own(listeners, post, async |listeners, leave| {
            let http = Http::new(operators(&config.now()));
            let follow_config = async {
                loop {
                    let now = config.changed().await;
                    http.reconfigure(operators(&now));
                }
            };
            // Of its own: users must not be able to shut operators out.
            let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
            let serve = server::serve(listeners, self.admin_service(), &http, places, Spread::alone(), leave);
            tokio::select! {
                cut_off = serve => Ok(cut_off),
                never = follow_config => never,
            }
        })
    }

    /// How users' connections are served.
    fn users(&self, config: &Config, worker: usize) -> server::Settings {
        server::Settings {
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            counts: self.metrics.worker(worker),
            proxy_protocol: config.gateway.proxy_protocol.clone(),
            tls: self.certificate.present(),
        }
    }

    fn admin_service(&self) -> impl Fn(Client) -> AdminOnly + use<> {
        let admin = Rc::new((self.admin.clone(), self.control.clone()));
        move |client| AdminOnly::new(admin.clone(), client.ip)
    }
}

/// How connections to `gateway.admin_listen` are served.
fn operators(Config { timeouts, limits, .. }: &Config) -> server::Settings {
    server::Settings {
        // When that listener is left, all others have drained.
        timeouts: Timeouts { drain: timeouts.drain.min(ADMIN_DRAIN), ..timeouts.clone() },
        limits: limits.clone(),
        counts: None,
        proxy_protocol: None,
        tls: None,
    }
}

/// Serves from when it is told to begin. What may fail comes before, so that nobody need leave for a gateway that fails; and
/// questions are answered when that is done.
fn on_a_runtime_of_its_own(
    listeners: Vec<StdListener>,
    Post { mut begin, leave, questions }: Post,
    serve: impl AsyncFnOnce(Vec<TcpListener>, &SetOnce<Leave>) -> anyhow::Result<usize>,
) -> anyhow::Result<usize> {
    let runtime: LocalRuntime =
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let result = runtime.block_on(async {
        let listeners = listeners.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
        let run = async {
            // Until then who comes is somebody else's, or waits.
            if begin.wait_for(|begun| *begun).await.is_err() {
                return Ok(0);
            }
            serve(listeners, &leave).await
        };
        tokio::select! {
            result = run => result,
            never = questions.answer() => match never {},
        }
    });
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    result
}
