//! A gateway that starts while its dataservers already run.

use std::time::{Duration, Instant};

use crate::findings::{Drilled, at_most, for_the_record, none};
use crate::fleet::real_nsq;
use crate::support::{Apiserver, Cluster, DataserverProcess, get, pause, within};

/// How often the dataservers are heard here.
const INTERVAL: Duration = Duration::from_secs(2);

/// Started three times, since what it waits for is where in their interval the dataservers are.
pub fn cold_start() -> Drilled {
    let cluster = real_nsq(1)?;
    let _dataservers = beating(&cluster);
    let starts: Vec<_> = (0..3)
        .map(|n| {
            pause(Duration::from_millis(700) * n);
            Start::of(&config(&cluster, ""))
        })
        .collect();
    let first = starts.iter().map(|start| start.first_answer).max().unwrap();
    let ready = starts.iter().map(|start| start.ready).max().unwrap();
    let lies = starts.iter().map(|start| start.lies).sum();
    Ok(vec![
        at_most("first 200 after", first, INTERVAL),
        at_most("/readyz says so after", ready, INTERVAL * 2),
        none("times it said so and there was none", lies),
    ])
}

/// With a snapshot of the set as it was, nothing has to be heard first: a probe is enough.
pub fn start_with_a_snapshot() -> Drilled {
    let cluster = real_nsq(1)?;
    let mut dataservers = beating(&cluster);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.json");
    let config = config(&cluster, &format!("snapshot: {}, ", file.display()));
    let mut before = Apiserver::start(&config);
    within(INTERVAL * 2, "all to be known", || (before.live().len() == 3).then_some(()));
    within(INTERVAL * 3, "the snapshot", || file.exists().then_some(()));
    before.process.signal("TERM");
    before.process.wait();
    // One of them has died since: a snapshot is no proof of life.
    dataservers.pop().unwrap().process.kill();
    let start = Start::of(&config);
    Ok(vec![
        at_most("first 200 after", start.first_answer, Duration::from_secs(1)),
        none("requests failed after that", start.failed_later),
        none("times /readyz said so and there was none", start.lies),
        for_the_record("/readyz says so after", start.ready),
    ])
}

fn beating(cluster: &Cluster) -> Vec<DataserverProcess> {
    let config = cluster.config(false, "").replace("heart_beat_time: 1", "heart_beat_time: 2");
    let dataservers = (0..3).map(|_| DataserverProcess::start(&config)).collect();
    pause(INTERVAL / 2);
    dataservers
}

fn config(cluster: &Cluster, more: &str) -> String {
    let registry = format!("registry: {{{more}ttl: 5s, sweep_interval: 200ms}}\n");
    cluster.config(true, &registry).replace("heart_beat_time: 1", "heart_beat_time: 2")
}

/// How a start went, in time since the command was given.
struct Start {
    first_answer: Duration,
    ready: Duration,
    /// How often `/readyz` said yes and the next request was not answered.
    lies: usize,
    /// How many were not answered after the first that was.
    failed_later: usize,
}

impl Start {
    fn of(config: &str) -> Self {
        let begun = Instant::now();
        let gateway = Apiserver::start(config);
        let (mut first_answer, mut ready, mut lies, mut failed_later) = (None, None, 0, 0);
        // Half a second longer than it takes, to see whether it stays so.
        let is_over = |ready: Option<Duration>| {
            let over = ready.map_or(INTERVAL * 2, |ready| ready + Duration::from_millis(500));
            begun.elapsed() > over
        };
        while !is_over(ready) {
            let is_ready = get(gateway.listen, "/readyz").status == 200;
            let is_answered = get(gateway.listen, "/").status == 200;
            if is_ready {
                ready.get_or_insert(begun.elapsed());
                lies += usize::from(!is_answered);
            }
            if is_answered {
                first_answer.get_or_insert(begun.elapsed());
            } else if first_answer.is_some() {
                failed_later += 1;
            }
            pause(Duration::from_millis(10));
        }
        let never = INTERVAL * 10;
        Self {
            first_answer: first_answer.unwrap_or(never),
            ready: ready.unwrap_or(never),
            lies,
            failed_later,
        }
    }
}
