//! The path of a request, as a stack of layers: the first sees a request first and its answer last.
//!
//! Everything here runs on one worker and shares nothing with another but the snapshot of the live set, so it
//! needs neither locks nor `Send`. Each layer is a tower service in a file of its own.

mod access_log;
mod balance;
mod body;
mod connect;
mod error;
mod forward;
mod headers;
mod identify;
mod instrument;
mod limit;
mod pool;
mod retry;
mod upgrade;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceBuilder};

use crate::addr::{Dialable, Networks};
use crate::config::{self, Config};
use crate::current::Current;
use crate::http1::Scratch;
use crate::lines::Lines;
use crate::message::{Request, Response};
use crate::metrics::Metrics;
use crate::registry::{Reader, Registry};

pub use body::{Body, Incoming};
pub use error::Error;
pub use headers::{Client, check, is_grpc};

use access_log::Log;
use connect::Http2Terms;
use headers::Via;
use pool::Pool;
use retry::Budget;

/// A shorter `timeouts.pool_idle` is noticed after so long.
const MOST_UNTIDY: Duration = Duration::from_secs(1);

/// What a worker's requests share.
pub struct Worker {
    index: usize,
    registry: RefCell<Reader>,
    rng: RefCell<SmallRng>,
    metrics: Metrics,
    counts: Arc<crate::metrics::Worker>,
    pool: Pool,
    retry_budget: Budget,
    tunnels: TaskTracker,
    scratch: Rc<Scratch>,
    access_log: Option<Current<Log>>,
    fixed: Fixed,
    settings: Current<Settings>,
}

/// What all workers of a gateway have in common, and never changes.
#[derive(Clone)]
pub struct Fixed {
    workers: usize,
    dialable: Dialable,
    access_log: Option<Lines>,
    /// The same on all workers: a request that comes back may reach another one.
    via: Arc<Via>,
}

impl Fixed {
    /// For so many workers; `dialable` is where requests may go, and the access log goes to these lines, if there is one.
    pub fn new(workers: usize, dialable: Dialable, access_log: Option<Lines>) -> Self {
        Self { workers, dialable, access_log, via: Arc::new(Via::new()) }
    }
}

/// What of the config concerns a request.
pub struct Settings {
    balance: config::Balance,
    retry_budget: config::RetryBudget,
    timeouts: config::Timeouts,
    limits: config::Limits,
    trusted_proxies: Networks,
    request_id: config::Ids,
    traceparent: config::Ids,
    access_log: config::AccessLog,
}

impl Settings {
    /// Takes what concerns a request.
    pub fn new(config: &Config) -> Self {
        Self {
            balance: config.gateway.balance,
            retry_budget: config.gateway.retry_budget,
            timeouts: config.timeouts.clone(),
            limits: config.limits.clone(),
            trusted_proxies: config.gateway.trusted_proxies.clone(),
            request_id: config.request_ids(),
            traceparent: config.gateway.traceparent,
            access_log: config.log.access.clone(),
        }
    }
}

impl Worker {
    /// The state of worker number `index`; `None` if the metrics were made for fewer.
    pub fn new(
        index: usize,
        registry: &Registry,
        metrics: &Metrics,
        fixed: Fixed,
        settings: Settings,
    ) -> Option<Rc<Self>> {
        Some(Rc::new(Self {
            index,
            registry: RefCell::new(registry.reader()),
            rng: RefCell::new(SmallRng::from_os_rng()),
            metrics: metrics.clone(),
            counts: metrics.worker(index)?,
            pool: Pool::new(settings.limits.pool),
            retry_budget: Budget::new(settings.retry_budget, fixed.workers),
            tunnels: TaskTracker::new(),
            scratch: Rc::new(Scratch::new(settings.limits.body_buffer)),
            access_log: fixed.access_log.as_ref().map(|lines| {
                // A queue of this worker's own: it waits for no other.
                Current::new(Log::new(lines.queue(), settings.access_log.clone()))
            }),
            fixed,
            settings: Current::new(settings),
        }))
    }

    /// From now on these hold: for every request that comes, and for the next one on a connection that is open.
    pub fn reconfigure(&self, settings: Settings) {
        let before = self.settings.get();
        self.retry_budget.set(settings.retry_budget, self.fixed.workers);
        self.scratch.set_body_read(settings.limits.body_buffer);
        self.pool.set_most_idle(settings.limits.pool);
        if let Some(log) = &self.access_log
            && before.access_log != settings.access_log
        {
            log.set(log.get().written_as(settings.access_log.clone()));
        }
        if Http2Terms::of(&before) != Http2Terms::of(&settings) {
            self.pool.retire_http2();
        }
        self.settings.set(settings);
    }

    /// What holds now. A request that asks more than once may see a change in between.
    fn settings(&self) -> Rc<Settings> {
        self.settings.get()
    }

    /// Waits until every tunnel has ended. Returns how many had not at the deadline.
    pub async fn tunnels_ended(&self, deadline: Instant) -> usize {
        self.tunnels.close();
        let _ = timeout_at(deadline, self.tunnels.wait()).await;
        self.tunnels.len()
    }

    /// Closes connections to dataservers that were idle for too long, for as long as it is polled.
    pub async fn tidy_pool(&self) {
        loop {
            let pool_idle = self.settings().timeouts.pool_idle;
            tokio::time::sleep((pool_idle / 4).clamp(Duration::from_millis(1), MOST_UNTIDY)).await;
            self.registry.borrow_mut().refresh();
            self.pool.close_idle(pool_idle);
        }
    }
}

/// The stack for the requests of one connection.
pub fn stack(
    worker: &Rc<Worker>,
    client: Client,
) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + use<> {
    ServiceBuilder::new()
        // Outermost, so that every answer is counted and timed, the gateway's own refusals too.
        .layer_fn(|inner| instrument::Instrument::new(inner, worker.counts.clone()))
        // What it is called, before anybody writes that down.
        .layer_fn(|inner| identify::Identify::new(inner, worker.clone()))
        // A line for each request, with all that happens to it further down.
        .layer_fn(|inner| access_log::AccessLog::new(inner, client, worker.clone()))
        // Errors become answers here and nowhere else: above this line nothing fails.
        .layer_fn(error::Respond::new)
        // More requests than the gateway may have under way are refused at once; nothing queues.
        .layer_fn(|inner| limit::InFlight::new(inner, worker.clone()))
        // What an intermediary must refuse, remove and add, both ways, before anybody else looks at it.
        .layer_fn(|inner| headers::Headers::new(inner, client, worker.clone()))
        // A 101 makes a tunnel of what was an exchange.
        .layer_fn(|inner| upgrade::Upgrade::new(inner, worker.clone()))
        // A dataserver that could not take or answer the request: another one can.
        .layer_fn(|inner| retry::Retry::new(inner, worker.clone()))
        // Chosen anew for each try, at the last moment: nobody waits between the choice and the use.
        .layer_fn(|inner| balance::Balance::new(inner, worker.clone()))
        // The exchange with the one that was chosen.
        .service(forward::Forward::new(worker.clone()))
}
