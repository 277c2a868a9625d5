//! The machine itself: clocks that jump, a gateway that is stopped, processors that are busy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

use crate::findings::{Cannot, Drilled, finding, happens_within, needs, none};
use crate::fleet::{Fleet, TTL, gateway_config, real_nsq};
use crate::load::Load;
use crate::support::{Apiserver, Broker, Cluster, Process, get, pause, tools, within};
use crate::watch::Watch;
use crate::witness::publish;

/// For how often a drill looks, and for the sweep.
const SLACK: Duration = Duration::from_millis(700);

const HOUR: i32 = 3600;

pub fn the_gateways_clock_jumps() -> Drilled {
    let clock = Clock::new()?;
    let cluster = Cluster::start(Broker::Embedded, 1);
    let gateway = Apiserver::start_with(&gateway_config(&cluster, ""), |command| clock.give_to(command));
    let (shown_by, nsqd_http) = (gateway.listen, cluster.nsqds[0].http);
    let fleet = Fleet::of(gateway, 4, cluster.config(false, ""));
    clock_jumps(fleet, &clock, shown_by, nsqd_http)
}

/// The nsqd is one that is inside another gateway: libfaketime does not reach Go programs.
pub fn nsqds_clock_jumps() -> Drilled {
    let clock = Clock::new()?;
    let nsqd = Apiserver::start_with("gateway: {workers: 1}\n", |command| clock.give_to(command));
    let [tcp, http, _] = nsqd.nsq.unwrap();
    let common = format!("common: {{heart_beat_time: 1, nsqd: ['{tcp}']}}\n");
    let timings = "registry: {ttl: 2500ms, sweep_interval: 200ms}\nnsq: {silence_timeout: 2s}\n";
    let gateway = Apiserver::start(&format!("{common}{timings}"));
    let fleet = Fleet::of(gateway, 4, common);
    clock_jumps(fleet, &clock, nsqd.listen, http)
}

/// An hour forward and back again. A heartbeat of a dead dataserver is held back in NSQ over each jump, for longer
/// than the TTL: it must not revive it.
fn clock_jumps(mut fleet: Fleet, clock: &Clock, shown_by: SocketAddr, nsqd_http: SocketAddr) -> Drilled {
    let addrs = fleet.addrs();
    let (dead, living) = addrs.split_last().unwrap();
    let killed = fleet.kill(3);
    within(TTL * 2, "the dead one to be evicted", || fleet.state(dead).is_none().then_some(()));
    // It is counted by the next sweep.
    pause(SLACK);
    let joins = || fleet.gateway.metric("gateway_dataserver_joins_total");
    let (evicted, joined) = (fleet.evicted(), joins());
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 100);
    for to in [HOUR, 0] {
        let late = TTL + Duration::from_millis(500);
        publish(nsqd_http, &format!("pub?defer={}", late.as_millis()), dead.as_bytes()).unwrap();
        clock.set(to);
        within(Duration::from_secs(5), "the clock to jump", || {
            ((ahead(shown_by) - i64::from(to)).abs() <= 2).then_some(())
        });
        pause(TTL * 2 + Duration::from_secs(1));
    }
    let (answers, seen) = (load.stop(), watch.stop());
    let (evicted, revived) = (fleet.evicted() - evicted, joins() - joined);
    // And silence still means what it meant.
    let victim = fleet.kill(2);
    let gone = within(TTL * 3, "the victim to leave", || {
        fleet.state(&living[2]).is_none().then(|| victim.elapsed())
    });
    Ok(vec![
        answers.none_failed(),
        none("evicted", evicted),
        none("missing at any time", seen.missing(living, killed, Instant::now()).len()),
        finding(format!("{revived} revived"), revived < 1.0),
        happens_within("one that dies then is evicted after", Some(gone), TTL * 2),
    ])
}

/// A wall clock that a process is given instead of its own, by libfaketime.
struct Clock {
    faketime: PathBuf,
    dir: TempDir,
}

impl Clock {
    fn new() -> Result<Self, Cannot> {
        let clock = Self { faketime: needs(&tools::LIBFAKETIME)?, dir: tempfile::tempdir().unwrap() };
        clock.set(0);
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    fn give_to(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.faketime)
            .env("FAKETIME_TIMESTAMP_FILE", self.file())
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_NO_CACHE", "1");
    }

    /// Sets how far ahead it is, in seconds.
    fn set(&self, seconds: i32) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }
}

/// How far ahead the clock of a gateway is in fact, in seconds, to the second.
fn ahead(gateway: SocketAddr) -> i64 {
    let date = get(gateway, "/healthz").header("date").map(httpdate::parse_http_date);
    let shown = date.expect("no date").expect("no date");
    let whole =
        |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    whole(shown) - whole(SystemTime::now())
}

pub fn the_gateway_stands_still_for_5_s() -> Drilled {
    the_gateway_stands_still_for(Duration::from_secs(5))
}

pub fn the_gateway_stands_still_for_60_s() -> Drilled {
    the_gateway_stands_still_for(Duration::from_secs(60))
}

/// SIGSTOP and SIGCONT. One of the dataservers dies meanwhile: waking up must not be an excuse.
fn the_gateway_stands_still_for(length: Duration) -> Drilled {
    let cluster = real_nsq(1)?;
    let mut fleet = Fleet::on(&cluster, 4, "");
    let addrs = fleet.addrs();
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 100);
    load.go_on_for(100);
    fleet.gateway.process.signal("STOP");
    let stopped = Instant::now();
    pause(length / 2);
    fleet.kill(3);
    pause(length / 2);
    fleet.gateway.process.signal("CONT");
    let woken = Instant::now();
    pause(TTL * 3);
    let (answers, seen) = (load.stop(), watch.stop());
    let (waited, others) = answers.under_way(&(stopped..woken));
    Ok(vec![
        others.none_failed(),
        // A limit of the gateway may have passed for them while it stood still.
        finding(format!("{} of {} that waited meanwhile failed", waited.failed().len(), waited.len()), true),
        none("of the living missing", seen.missing(&addrs[..3], stopped, Instant::now()).len()),
        happens_within(
            "the dead one out of rotation after",
            seen.out_after(&addrs[3], woken),
            Duration::from_secs(2),
        ),
    ])
}

/// Eight busy processes for each core.
pub fn the_processor_is_starved() -> Drilled {
    let fleet = Fleet::start(3, "");
    let watch = Watch::start(&fleet.gateway);
    let load = Load::gets(fleet.gateway.listen, 50);
    let begun = Instant::now();
    let cores = std::thread::available_parallelism().unwrap().get();
    let busy: Vec<_> = (0..8 * cores)
        .map(|_| Process::start(Command::new("sh").args(["-c", "while :; do :; done"])))
        .collect();
    pause(Duration::from_secs(15));
    let seen = watch.stop();
    let evicted = fleet.evicted();
    drop(busy);
    let answers = load.stop();
    Ok(vec![
        none("evicted", evicted),
        none("missing at any time", seen.missing(&fleet.addrs(), begun, Instant::now()).len()),
        answers.none_failed(),
    ])
}
