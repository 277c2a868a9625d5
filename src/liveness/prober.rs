//! Asking dataservers themselves whether they are alive: those that are doubted, and those whose silence means nothing.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::addr::{Addr, Dialable};
use crate::config;
use crate::fetch::{self, FetchError};
use crate::protocol::Protocol;
use crate::registry::{Entry, Failure};
use crate::resolved::{self, Resolved};

/// Shortest time between two looks at all that are watched.
const LOOK_GAP: Duration = Duration::from_millis(50);

/// Those who look after the doubtful.
pub(super) struct Prober {
    settings: config::Probe,
    dialable: Dialable,
    watched: HashMap<u64, Watched>,
    /// Whose turn it is, the next one last.
    queue: Vec<u64>,
    /// When all that are watched are looked at again, for the queue.
    next_look: Instant,
    /// Each with whether it is for a dataserver that never was live.
    running: JoinSet<(Arc<Entry>, bool, Answer)>,
    /// Of those that run, the ones for dataservers that never were live.
    newcomers: usize,
}

struct Watched {
    entry: Arc<Entry>,
    /// When it is to be probed for its silence.
    silent: Option<Instant>,
    is_running: bool,
    /// A lookup that a probe did not wait for is the next one's.
    resolved: Arc<Resolved>,
}

impl Watched {
    /// When it is to be probed; `None` if it need not be.
    fn due(&self, interval: Duration) -> Option<Instant> {
        [self.entry.probe_due(interval), self.silent].into_iter().flatten().min()
    }
}

/// The order of probes, the first one last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    /// The newest first: in a flood of them those that wait are those that nobody hears any more.
    Newcomer(u64),
    /// Who has waited longest first, so that everybody has a turn.
    Known(Reverse<Instant>),
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
        let (watched, queue, running) = (HashMap::new(), Vec::new(), JoinSet::new());
        Self { settings, dialable, watched, queue, next_look: Instant::now(), running, newcomers: 0 }
    }

    /// From now on these hold; probes that are under way end by the old ones.
    pub(super) fn reconfigure(&mut self, settings: config::Probe) {
        self.settings = settings;
        self.next_look = Instant::now();
    }

    /// Whether somebody may be there; `None` if that is not known before a name is resolved.
    pub(super) fn may_ask(&self, addr: &Addr) -> Option<bool> {
        addr.socket_addr().map(|target| self.dialable.permits(target))
    }

    /// Looks after one that is doubted. If it was live, it is the next.
    pub(super) fn watch_doubtful(&mut self, entry: Arc<Entry>) {
        if !entry.is_on_probation() {
            self.queue.push(entry.id());
        }
        self.watch(entry);
    }

    fn watch(&mut self, entry: Arc<Entry>) {
        let unwatched = |entry| Watched { entry, silent: None, is_running: false, resolved: Arc::default() };
        self.watched.entry(entry.id()).or_insert_with(|| unwatched(entry));
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
        if now >= self.next_look {
            self.look(now);
        }
        let interval = self.settings.interval;
        let most_newcomers = self.settings.parallel.div_ceil(2);
        while self.running.len() < self.settings.parallel {
            let Some(id) = self.queue.pop() else { break };
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            // Since it was put there, much may have happened.
            if watched.is_running || watched.due(interval).is_none_or(|due| due > now) {
                continue;
            }
            let is_newcomer = watched.entry.is_on_probation();
            if is_newcomer && self.newcomers >= most_newcomers {
                self.queue.push(id);
                break;
            }
            self.newcomers += usize::from(is_newcomer);
            watched.is_running = true;
            let jitter = interval.mul_f64(rand::rng().random_range(0.9..1.0));
            watched.silent = watched.silent.map(|_| now + jitter);
            let (entry, settings) = (watched.entry.clone(), self.settings.clone());
            let way = Way { resolved: watched.resolved.clone(), dialable: self.dialable.clone() };
            self.running.spawn(async move {
                let answer = probe(&entry, &settings, &way).await;
                (entry, is_newcomer, answer)
            });
        }
    }

    /// Makes the queue anew of all whose probe is due, and forgets those that need none, unless their name is still being
    /// looked up: whoever needs one next waits for that.
    fn look(&mut self, now: Instant) {
        let begun = Instant::now();
        let interval = self.settings.interval;
        let mut due = Vec::new();
        self.watched.retain(|id, watched| {
            if watched.is_running {
                return true;
            }
            let Some(at) = watched.due(interval) else { return watched.resolved.is_looking_up() };
            if at <= now {
                let is_newcomer = watched.entry.is_on_probation();
                let turn = if is_newcomer { Turn::Newcomer(*id) } else { Turn::Known(Reverse(at)) };
                due.push((turn, *id));
            }
            true
        });
        due.sort_unstable();
        self.queue = due.into_iter().map(|(_, id)| id).collect();
        // A flood takes long to look through: never more than a tenth of the time goes into that.
        self.next_look = now + (begun.elapsed() * 9).max(LOOK_GAP.min(interval / 10));
    }

    /// Waits until a probe comes back; for ever if none is under way.
    pub(super) async fn came_back(&mut self) -> (Arc<Entry>, Answer) {
        loop {
            match self.running.join_next().await {
                Some(Ok((entry, is_newcomer, answer))) => {
                    self.newcomers = self.newcomers.saturating_sub(usize::from(is_newcomer));
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

/// Where a dataserver is to be found.
struct Way {
    resolved: Arc<Resolved>,
    dialable: Dialable,
}

impl Way {
    async fn targets(&self, addr: &Addr, within: Duration) -> io::Result<Vec<SocketAddr>> {
        let mut targets = if let Some(target) = addr.socket_addr() {
            vec![target]
        } else {
            // Where its name leads by now, or it would be asked at a place that it has left.
            let found = self.resolved.targets(addr, Duration::ZERO, within / 2);
            timeout(within, found).await??.to_vec()
        };
        targets.retain(|target| self.dialable.permits(*target));
        Ok(targets)
    }
}

async fn probe(entry: &Entry, settings: &config::Probe, way: &Way) -> Answer {
    let within = settings.timeout;
    let targets = match way.targets(entry.addr(), within).await {
        Ok(targets) if targets.is_empty() => return nowhere(),
        Ok(targets) => targets,
        // A name that leads nowhere says nothing about who had it.
        Err(error) => return Answer::NotAsked(format!("its name: {error}")),
    };
    // A gRPC server has no paths: a connection is enough.
    let path = settings.path.as_deref().filter(|_| entry.protocol() == Protocol::Http1);
    if let Some(path) = path {
        return ask(&targets, path, within).await;
    }
    match resolved::connect(&targets, Instant::now() + within).await {
        // Of whom nothing is known but its silence, taking a connection is enough: a large set is asked quickly.
        Ok(stream) if entry.breaks_connections() => stays_open(&stream, settings.hold).await,
        Ok(_) => Answer::Passed,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => too_slow(within),
        Err(error) => not_connected(&error),
    }
}

/// Whether a connection lasts for a while on which nothing is said.
async fn stays_open(stream: &TcpStream, hold: Duration) -> Answer {
    match timeout(hold, stream.peek(&mut [0])).await {
        // It waits to be asked, or speaks first, as servers of HTTP/2 do.
        Err(_) | Ok(Ok(1..)) => Answer::Passed,
        Ok(Ok(0)) => Answer::Failed("it takes a connection and closes it".to_owned()),
        Ok(Err(error)) => Answer::Failed(format!("it takes a connection, and then: {error}")),
    }
}

async fn ask(targets: &[SocketAddr], path: &str, within: Duration) -> Answer {
    let mut answer = nowhere();
    let shares = resolved::shares(targets.len(), Instant::now() + within);
    for (target, share) in targets.iter().zip(shares) {
        let asked = async {
            let stream = resolved::connect_to(*target).await.map_err(FetchError::Connect)?;
            fetch::get_on(stream, &target.to_string(), path).await
        };
        answer = match timeout(share(), asked).await {
            Err(_) => too_slow(within),
            Ok(Ok(answer)) if answer.status().is_success() => return Answer::Passed,
            Ok(Ok(answer)) => Answer::Failed(format!("it answers {}", answer.status())),
            Ok(Err(FetchError::Connect(error))) => not_connected(&error),
            Ok(Err(error)) => Answer::Failed(error.to_string()),
        };
    }
    answer
}

fn too_slow(within: Duration) -> Answer {
    Answer::Failed(format!("no answer within {}", humantime::format_duration(within)))
}

fn nowhere() -> Answer {
    Answer::Failed("it is nowhere that may be dialled".to_owned())
}

fn not_connected(error: &io::Error) -> Answer {
    match Failure::to_connect(error) {
        Failure::NoSocket => Answer::NotAsked(error.to_string()),
        _ => Answer::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presence::Phase;
    use crate::registry::{Beat, Registry, Settings};

    const MILLI: Duration = Duration::from_millis(1);

    /// So many at addresses that refuse connections, and who looks after them.
    fn refusing(count: usize, trusted_joins: usize, interval: Duration) -> (Prober, Vec<Arc<Entry>>) {
        let registry = Registry::new(Settings { join_rate: 1_000_000, trusted_joins, ..Settings::default() });
        let now = Instant::now();
        let entries = (0..count).map(|n| {
            let addr = format!("127.{}.{}.{}:1", 1 + (n >> 16), n >> 8 & 255, n & 255).parse().unwrap();
            let (protocol, phase) = (Protocol::Http1, Phase::Up);
            let beat = Beat { addr: &addr, protocol, phase, incarnation: None, sent: now, nsqd: "" };
            registry.record(&beat, now);
            registry.entry(&addr).unwrap()
        });
        let entries = entries.collect();
        let probe = config::Probe { parallel: 1, interval, ..config::Config::default().registry.probe };
        (Prober::new(probe, Dialable::default()), entries)
    }

    #[tokio::test]
    async fn each_of_the_silent_has_its_turn_though_there_are_more_than_can_be_asked() {
        let (mut prober, entries) = refusing(5, 5, 10 * MILLI);
        prober.watch_silent(entries, Instant::now());
        tokio::time::sleep(10 * MILLI).await;
        let mut asked = Vec::new();
        while asked.len() < 5 {
            prober.start_due(Instant::now());
            let Ok((entry, _)) = timeout(50 * MILLI, prober.came_back()).await else { continue };
            asked.push(entry.id());
            // By now the one that was asked is due again.
            tokio::time::sleep(20 * MILLI).await;
        }
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked.len(), 5);
    }

    #[tokio::test]
    async fn a_name_that_is_being_looked_up_is_not_looked_up_again_by_the_next_probe() {
        let (mut prober, entries) = refusing(1, 0, 10 * MILLI);
        prober.watch_doubtful(entries[0].clone());
        let resolved = prober.watched[&entries[0].id()].resolved.clone();
        let (answer, answers) = std::sync::mpsc::channel::<()>();
        let hanging = resolved.resolve(Duration::ZERO, Duration::ZERO, move || {
            let _ = answers.recv();
            Ok(Vec::new())
        });
        assert!(timeout(5 * MILLI, hanging).await.is_err(), "the name server hangs");
        // The probe fails, and there is no need for another before a heartbeat.
        entries[0].probed(Err("no answer".to_owned()), Instant::now());
        prober.look(Instant::now());
        prober.watch_doubtful(entries[0].clone());
        assert!(Arc::ptr_eq(&resolved, &prober.watched[&entries[0].id()].resolved));
        // With its end it is forgotten.
        answer.send(()).unwrap();
        let begun = Instant::now();
        while !prober.watched.is_empty() && begun.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(MILLI).await;
            prober.look(Instant::now());
        }
        assert!(prober.watched.is_empty());
    }

    #[tokio::test]
    async fn one_that_was_live_comes_before_newcomers_and_of_those_the_newest() {
        let (mut prober, entries) = refusing(10, 1, Duration::from_secs(1));
        for entry in &entries {
            prober.watch_doubtful(entry.clone());
        }
        let mut asked = Vec::new();
        for _ in 0..3 {
            prober.start_due(Instant::now());
            let (entry, _) = prober.came_back().await;
            entry.probed(Err("refused".to_owned()), Instant::now());
            asked.push(entry.id());
            if asked.len() == 1 {
                entries[0].failed(Failure::Connect, false, Instant::now());
                prober.watch_doubtful(entries[0].clone());
            }
        }
        assert_eq!(asked, [9, 0, 8]);
    }

    #[tokio::test]
    async fn faults_19_a_flood_of_newcomers_is_not_looked_through_for_each_probe() {
        let (mut prober, entries) = refusing(50_000, 0, Duration::from_secs(1));
        for entry in entries {
            prober.watch_doubtful(entry);
        }
        let begun = Instant::now();
        for _ in 0..2_000 {
            prober.start_due(Instant::now());
            prober.came_back().await;
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }
}
