//! Too many: addresses, slow users, resets.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::findings::{Drilled, Finding, finding, grouped, needs, none};
use crate::fleet::{Fleet, TTL, real_nsq};
use crate::load::{Answers, Load};
use crate::support::frames::{Frames, GET, kind};
use crate::support::{Apiserver, Process, pause, tools, within};
use crate::witness::{Beats, Manner, Witness, publish, unread};

/// How long the users are watched before each time that something happens to them.
const CALM: Duration = Duration::from_millis(1500);

/// What a busy scheduler makes of no time at all, and of a binary that is ten times slower than it would be.
const NOISE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });

/// Calm and storm by turns, so that what else this machine does meets both, and what users saw of them.
fn by_turns(fleet: &Fleet, mut storms: Vec<impl FnMut()>) -> [Answers; 2] {
    let load = Load::quick_gets(fleet.gateway.listen, 200);
    let (mut calms, mut stormy) = (Vec::new(), Vec::new());
    for storm in &mut storms {
        let calm = Instant::now();
        pause(CALM);
        let begun = Instant::now();
        storm();
        calms.push(calm..begun);
        stormy.push(begun..Instant::now());
    }
    let answers = load.stop();
    [answers.sent(&calms), answers.sent(&stormy)]
}

/// That the others were served as fast as before, twice as slow at most.
fn p99_at_most_doubles([calm, storm]: &[Answers; 2]) -> Finding {
    let (calm, storm) = (calm.p99(), storm.p99());
    finding(format!("p99 {calm:.1?} → {storm:.1?} (≤ 2 ×, or {NOISE:?})"), storm <= (calm * 2).max(NOISE))
}

/// 100,000 addresses at which nobody listens, each heard once, in five storms.
pub fn a_flood_of_100_000_addresses() -> Drilled {
    const STORM: usize = 20_000;
    // A channel that goes with its gateway keeps no more than 10,000, and the real ones have to be heard in time.
    const BATCH: usize = 2_000;
    let cluster = real_nsq(1)?;
    let nsqd = cluster.nsqds[0].http;
    let fleet = Fleet::on(&cluster, 3, "");
    let (memory, series) = (Memory::of(&fleet), fleet.gateway.metrics().lines().count());
    let heard = || sum(&fleet.gateway.metrics(), "gateway_heartbeats_total{");
    let before = heard();
    let addrs: Vec<_> =
        (0..100_000).map(|n| format!("127.{}.{}.{}:9", 1 + n / 40_000, n / 200 % 200, 1 + n % 200)).collect();
    let storms = addrs.chunks(STORM).map(|storm| {
        move || {
            for batch in storm.chunks(BATCH) {
                publish(nsqd, "mpub", batch.join("\n").as_bytes()).unwrap();
                within(Duration::from_secs(20), "them to be read", || {
                    (unread(nsqd) < BATCH / 4).then_some(())
                });
            }
        }
    });
    let turns = by_turns(&fleet, storms.collect());
    let heard = heard() - before;
    let stay = fleet.addrs().iter().filter(|addr| fleet.state(addr).as_deref() == Some("live")).count();
    pause(TTL);
    let grown = memory.grown();
    let more_series = fleet.gateway.metrics().lines().count().saturating_sub(series);
    Ok(vec![
        turns[1].none_failed(),
        p99_at_most_doubles(&turns),
        finding(format!("{stay} of 3 real ones live"), stay == 3),
        finding(format!("+{grown:.1} MiB (≤ 64)"), grown <= 64.0),
        finding(format!("+{more_series} metric lines (≤ 500)"), more_series <= 500),
        finding(format!("{heard} heartbeats read"), heard >= 99_000.0),
    ])
}

/// 10,000 dataservers that come 500 at a time, get requests, and leave. All of them are this process.
pub fn ten_thousand_come_and_go() -> Drilled {
    const AT_ONCE: u32 = 500;
    // Whoever left is in the metrics for five minutes more.
    const FORGOTTEN: Duration = Duration::from_secs(6 * 60);
    let all = Witness::anywhere(Manner::Answer);
    let gateway = Apiserver::start("registry: {ttl: 2500ms, join_rate: 100000, trusted_joins: 100000}\n");
    let [nsqd, nsqd_http, _] = gateway.nsq.unwrap();
    let fleet = Fleet::of(gateway, 3, format!("common: {{heart_beat_time: 1, nsqd: ['{nsqd}']}}\n"));
    let lines = || fleet.gateway.metrics().lines().count();
    let upstreams = || fleet.gateway.metrics().matches("gateway_upstream_requests_total{").count();
    let load = Load::quick_gets(fleet.gateway.listen, 2_000);
    load.go_on_for(1_000);
    let (memory, before) = (Memory::of(&fleet), lines());
    let mut most = 0;
    for wave in 0..10_000 / AT_ONCE {
        let addr = |n: u32| format!("127.{}.{}.{}:{}", 2 + wave, n / 200, 1 + n % 200, all.addr.port());
        let beats = Beats::of((0..AT_ONCE).map(addr).collect(), nsqd_http);
        let live = || fleet.gateway.metric("gateway_dataservers{state=\"live\"}");
        within(Duration::from_secs(30), "them to join", || (live() >= f64::from(AT_ONCE)).then_some(()));
        load.go_on_for(3_000);
        most = most.max(upstreams());
        drop(beats);
        publish(nsqd_http, "mpub", goodbyes((0..AT_ONCE).map(addr)).as_bytes()).unwrap();
        within(Duration::from_secs(30), "them to leave", || (live() <= 3.0).then_some(()));
    }
    let answers = load.stop();
    let grown = memory.grown();
    let forgotten = Instant::now();
    let mut after = lines();
    while after > before + 50 && forgotten.elapsed() < FORGOTTEN {
        pause(Duration::from_secs(5));
        after = lines();
    }
    Ok(vec![
        answers.none_failed(),
        finding(format!("{} of 10,000 in the metrics at most", grouped(most)), most <= 10_003),
        finding(format!("+{grown:.1} MiB (≤ 64)"), grown <= 64.0),
        finding(format!("{before} metric lines before, {after} after"), after <= before + 50),
    ])
}

/// What says of each that it is down.
fn goodbyes(addrs: impl Iterator<Item = String>) -> String {
    let goodbye = |addr| format!(r#"{{"addr":"{addr}","id":"one","seq":1000000,"state":"down"}}"#);
    addrs.map(goodbye).collect::<Vec<_>>().join("\n")
}

/// Requests, joins and evictions, and nobody who asks for the metrics.
pub fn nobody_scrapes() -> Drilled {
    let mut fleet = Fleet::start(3, "");
    let load = Load::quick_gets(fleet.gateway.listen, 2_000);
    load.go_on_for(10_000);
    let memory = Memory::of(&fleet);
    for _ in 0..3 {
        load.go_on_for(5_000);
        fleet.restart(0);
        load.go_on_for(5_000);
    }
    let grown = memory.grown();
    let answers = load.stop();
    Ok(vec![answers.none_failed(), finding(format!("+{grown:.1} MiB (≤ 4)"), grown <= 4.0)])
}

/// The sum of all series that begin like this.
fn sum(metrics: &str, prefix: &str) -> f64 {
    let series = metrics.lines().filter(|line| line.starts_with(prefix));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// How much memory a gateway has at most, from now on.
struct Memory {
    status: String,
    before: f64,
}

impl Memory {
    fn of(fleet: &Fleet) -> Self {
        let process = format!("/proc/{}", fleet.gateway.process.id());
        // 5: the peak begins anew (man 5 proc_pid_clear_refs).
        std::fs::write(format!("{process}/clear_refs"), "5").unwrap();
        let status = format!("{process}/status");
        let before = peak(&status);
        Self { status, before }
    }

    /// How much larger the peak is than what it had, in MiB.
    fn grown(&self) -> f64 {
        (peak(&self.status) - self.before).max(0.0)
    }
}

/// The most that was resident, in MiB.
fn peak(status: &str) -> f64 {
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("no peak");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// 1,000 users whose heads, bodies and reading never get anywhere; the others must not feel them.
pub fn slow_users() -> Drilled {
    let slowhttptest = needs(&tools::needed_on_path("slowhttptest"))?;
    let fleet = Fleet::start(3, "");
    let to = format!("http://{}", fleet.gateway.listen);
    let mut findings = Vec::new();
    for (what, mode, path) in
        [("heads", "-H", "/"), ("bodies", "-B", "/echo"), ("reading", "-X", "/bytes/1000000")]
    {
        let mut command = Command::new(&slowhttptest);
        command.args([mode, "-c", "1000", "-r", "400", "-i", "1", "-l", "30", "-p", "5"]);
        let mut slow = Process::start(command.args(["-u", &format!("{to}{path}")]));
        within(Duration::from_secs(15), "the slow ones to be there", || {
            (fleet.gateway.metric("gateway_connections{protocol=\"http1\"}") > 900.0).then_some(())
        });
        let load = Load::gets(fleet.gateway.listen, 250);
        pause(Duration::from_secs(4));
        let answers = load.stop();
        slow.kill();
        let served = answers.len() - answers.failed().len();
        let enough = served as f64 >= answers.len() as f64 * 0.999;
        let text = format!("slow {what}: {} of {} others served", grouped(served), grouped(answers.len()));
        findings.push(finding(text, enough));
    }
    Ok(findings)
}

/// Somebody opens streams and resets them, as fast as it can, and comes again when it is closed.
pub fn rapid_reset() -> Drilled {
    let fleet = Fleet::start(3, "");
    let to = fleet.gateway.listen;
    let closed = AtomicUsize::new(0);
    let storm = || {
        let begun = Instant::now();
        while begun.elapsed() < CALM {
            let mut frames = Frames::connect(to, b"");
            let mut streams = (1..).step_by(2);
            while streams.next().is_some_and(|stream| {
                frames.request(stream, &GET, false) && frames.send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
            }) {}
            closed.fetch_add(1, Ordering::Relaxed);
        }
    };
    let turns = by_turns(&fleet, vec![storm; 3]);
    let closed = closed.load(Ordering::Relaxed);
    Ok(vec![
        finding(format!("closed {closed} times"), closed > 0),
        turns[1].none_failed(),
        p99_at_most_doubles(&turns),
        none("evicted", fleet.evicted()),
    ])
}
