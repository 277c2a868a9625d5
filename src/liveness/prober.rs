//! Asking dataservers themselves whether they are alive: those that are doubted, and those whose silence means nothing.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::addr::{Addr, Dialable};
use crate::config;
use crate::fetch::{self, FetchError};
use crate::protocol::Protocol;
use crate::registry::{Entry, Failure};

/// Those who look after the doubtful.
pub(super) struct Prober {
    settings: config::Probe,
    dialable: Dialable,
    watched: HashMap<u64, Watched>,
    running: JoinSet<(Arc<Entry>, Answer)>,
    /// Of those that run, the ones for dataservers that never were live.
    newcomers: usize,
}

struct Watched {
    entry: Arc<Entry>,
    /// When it is to be probed for its silence.
    silent: Option<Instant>,
    is_running: bool,
}

/// What came of a probe.
pub(super) enum Answer {
    Passed,
    Failed(String),
    /// The gateway could not ask: that says nothing about the dataserver.
    NotAsked(String),
}

impl Answer {
    /// Every label of `gateway_probes_total{result}`.
    pub(super) const LABELS: [&str; 3] = ["passed", "failed", "not_asked"];

    pub(super) fn label(&self) -> &'static str {
        let [passed, failed, not_asked] = Self::LABELS;
        match self {
            Self::Passed => passed,
            Self::Failed(_) => failed,
            Self::NotAsked(_) => not_asked,
        }
    }
}

impl Prober {
    pub(super) fn new(settings: config::Probe, dialable: Dialable) -> Self {
        Self { settings, dialable, watched: HashMap::new(), running: JoinSet::new(), newcomers: 0 }
    }

    /// Looks after one that is doubted.
    pub(super) fn watch(&mut self, entry: Arc<Entry>) {
        self.watched.entry(entry.id()).or_insert(Watched { entry, silent: None, is_running: false });
    }

    /// Probes these for their silence, each once in an interval, and no others for that.
    pub(super) fn watch_silent(&mut self, silent: Vec<Arc<Entry>>, now: Instant) {
        let interval = self.settings.interval;
        let mut due = HashMap::new();
        for entry in silent {
            let watched = self.watched.get(&entry.id()).and_then(|watched| watched.silent);
            // Spread over an interval: hundreds that fell silent together are not asked together.
            let at = watched.unwrap_or_else(|| now + interval.mul_f64(rand::rng().random_range(0.0..0.5)));
            due.insert(entry.id(), at);
            self.watch(entry);
        }
        for (id, watched) in &mut self.watched {
            watched.silent = due.remove(id);
        }
    }

    /// Starts the probes that are due, as many as may run at the same time: first of those that were live, and of the
    /// others never so many that these have to wait.
    pub(super) fn start_due(&mut self, now: Instant) {
        let interval = self.settings.interval;
        let due = |watched: &Watched| {
            let doubted = watched.entry.probe_due(interval);
            [doubted, watched.silent].into_iter().flatten().min()
        };
        self.watched.retain(|_, watched| watched.is_running || due(watched).is_some());
        let is_due =
            |watched: &&mut Watched| !watched.is_running && due(watched).is_some_and(|due| due <= now);
        let mut due: Vec<_> = self.watched.values_mut().filter(is_due).collect();
        // The newest newcomers first: in a flood of them those that wait are those that nobody hears any more.
        due.sort_by_key(|watched| (watched.entry.is_on_probation(), std::cmp::Reverse(watched.entry.id())));
        for watched in due {
            let is_newcomer = watched.entry.is_on_probation();
            let most_newcomers = self.settings.parallel.div_ceil(2);
            if self.running.len() >= self.settings.parallel
                || (is_newcomer && self.newcomers >= most_newcomers)
            {
                break;
            }
            self.newcomers += usize::from(is_newcomer);
            watched.is_running = true;
            let jitter = interval.mul_f64(rand::rng().random_range(0.9..1.0));
            watched.silent = watched.silent.map(|_| now + jitter);
            let (entry, settings) = (watched.entry.clone(), self.settings.clone());
            let dialable = self.dialable.clone();
            self.running.spawn(async move {
                let answer = probe(&entry, &settings, &dialable).await;
                (entry, answer)
            });
        }
    }

    /// Waits until a probe comes back; for ever if none is under way.
    pub(super) async fn came_back(&mut self) -> (Arc<Entry>, Answer) {
        loop {
            match self.running.join_next().await {
                Some(Ok((entry, answer))) => {
                    self.newcomers = self.newcomers.saturating_sub(usize::from(entry.is_on_probation()));
                    if let Some(watched) = self.watched.get_mut(&entry.id()) {
                        watched.is_running = false;
                    }
                    return (entry, answer);
                }
                Some(Err(error)) => tracing::error!(%error, "a probe panicked"),
                None => std::future::pending().await,
            }
        }
    }
}

async fn probe(entry: &Entry, settings: &config::Probe, dialable: &Dialable) -> Answer {
    let within = settings.timeout;
    // A gRPC server has no paths: a connection is enough.
    let path = settings.path.as_deref().filter(|_| entry.protocol() == Protocol::Http1);
    let asked = async {
        match path {
            None => connect(entry.addr(), dialable).await,
            Some(path) => ask(entry.addr(), path, within, dialable).await,
        }
    };
    timeout(within, asked).await.unwrap_or_else(|_| Answer::Failed(too_slow(within)))
}

fn too_slow(within: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(within))
}

async fn connect(addr: &Addr, dialable: &Dialable) -> Answer {
    let targets = match targets(addr, dialable).await {
        Ok(targets) => targets,
        Err(answer) => return answer,
    };
    let mut answer = nowhere();
    for target in targets {
        match TcpStream::connect(target).await {
            Ok(_) => return Answer::Passed,
            Err(error) => answer = not_connected(&error),
        }
    }
    answer
}

async fn ask(addr: &Addr, path: &str, within: Duration, dialable: &Dialable) -> Answer {
    let targets = match targets(addr, dialable).await {
        Ok(targets) => targets,
        Err(answer) => return answer,
    };
    let mut answer = nowhere();
    for target in targets {
        answer = match fetch::get(&target.to_string(), path, within).await {
            Ok(answer) if answer.status().is_success() => return Answer::Passed,
            Ok(answer) => Answer::Failed(format!("it answers {}", answer.status())),
            Err(FetchError::Connect(error)) => not_connected(&error),
            Err(error) => Answer::Failed(error.to_string()),
        };
    }
    answer
}

async fn targets(addr: &Addr, dialable: &Dialable) -> Result<Vec<std::net::SocketAddr>, Answer> {
    if let Some(target) = addr.socket_addr() {
        return Ok(vec![target]);
    }
    let targets = lookup_host(addr.as_str()).await.map_err(|error| Answer::Failed(error.to_string()))?;
    Ok(targets.filter(|target| dialable.permits(*target)).collect())
}

fn nowhere() -> Answer {
    Answer::Failed("its name leads nowhere that may be dialled".to_owned())
}

fn not_connected(error: &io::Error) -> Answer {
    match Failure::to_connect(error) {
        Failure::NoSocket => Answer::NotAsked(error.to_string()),
        _ => Answer::Failed(error.to_string()),
    }
}
