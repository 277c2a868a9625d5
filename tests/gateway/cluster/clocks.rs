//! nsqds whose clocks are wrong, and a gateway whose clock is set.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::QUICK;
use crate::support::{
    Apiserver, HttpSide, NsqdStub, Stub, eventually, get, pause, tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        faults_17_the_past_stays_dead_though_the_nsqds_clock_is_an_hour_off,
        faults_17_the_past_stays_dead_without_nsqds_http_if_its_clock_is_right,
        a_clock_that_is_set_while_connected_expires_nobody,
        without_nsqds_http_a_wrong_clock_is_known_by_its_messages,
        what_is_not_nsqds_http_costs_its_timeout_and_no_more,
    ];
    let name = "cluster::clocks::faults_28_the_wall_clock_is_set_and_nobody_expires_or_revives";
    trials.push(trial_with(name, &tools::LIBFAKETIME, the_wall_clock_is_set));
    trials
}

const HOUR: i32 = 3600;

/// Heartbeats an hour old, of dataservers that are dead.
const PAST: u16 = 300;

fn gateway_of(nsqd: &NsqdStub) -> Apiserver {
    Apiserver::start(&format!("common: {{nsqd: ['{}']}}\n{QUICK}", nsqd.tcp))
}

fn clock_offset(gateway: &Apiserver, nsqd: &NsqdStub) -> f64 {
    gateway.metric(&format!("gateway_nsqd_clock_offset_seconds{{nsqd=\"{}\"}}", nsqd.tcp))
}

/// Holds for this long that `addr`, and nobody else, is live.
#[track_caller]
fn stays_live(gateway: &Apiserver, addr: &str, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert_eq!(gateway.live(), [addr]);
        assert_eq!(get(gateway.listen, "/").status, 200);
        pause(Duration::from_millis(50));
    }
}

#[track_caller]
fn the_past_stays_dead(http: HttpSide, offset: i32) {
    let nsqd = NsqdStub::start(http, offset);
    for n in 0..PAST {
        // Over ten minutes, so that each looks younger than the one before.
        let ago = Duration::from_secs(3600 + 600 - 2 * u64::from(n));
        nsqd.publish(&format!("127.0.0.1:{}", 20_000 + n), ago);
    }
    let dataserver = Stub::ok("");
    let addr = dataserver.addr().to_string();
    nsqd.beat(&addr);
    let gateway = gateway_of(&nsqd);
    within(Duration::from_secs(5), "the live one", || (gateway.live() == [addr.as_str()]).then_some(()));
    stays_live(&gateway, &addr, Duration::from_secs(4));
    assert!((gateway.metric("gateway_dataserver_joins_total") - 1.0).abs() < 0.1);
    assert!((gateway.metric("gateway_heartbeats_total{result=\"stale\"}") - f64::from(PAST)).abs() < 0.1);
    assert!((clock_offset(&gateway, &nsqd) - f64::from(offset)).abs() < 0.5);
    assert_eq!(
        gateway.process.count("the clocks of this nsqd and the gateway differ"),
        usize::from(offset != 0)
    );
    assert!(nsqd.finished() > usize::from(PAST));
}

fn faults_17_the_past_stays_dead_though_the_nsqds_clock_is_an_hour_off() {
    for offset in [0, HOUR, -HOUR] {
        the_past_stays_dead(HttpSide::Nsqd, offset);
    }
}

fn faults_17_the_past_stays_dead_without_nsqds_http_if_its_clock_is_right() {
    the_past_stays_dead(HttpSide::Closed, 0);
}

fn a_clock_that_is_set_while_connected_expires_nobody() {
    let nsqd = NsqdStub::start(HttpSide::Nsqd, 0);
    let dataserver = Stub::ok("");
    let addr = dataserver.addr().to_string();
    nsqd.beat(&addr);
    let gateway = gateway_of(&nsqd);
    gateway.wait_for_live(&[&addr]);
    for offset in [-HOUR, 2 * HOUR, 0] {
        nsqd.set_clock(offset);
        stays_live(&gateway, &addr, Duration::from_secs(4));
        assert!((clock_offset(&gateway, &nsqd) - f64::from(offset)).abs() < 0.5);
    }
    assert!(gateway.metric("gateway_evictions_total{reason=\"expired\"}") < 0.1);
    assert_eq!(gateway.process.count("the clocks of this nsqd and the gateway differ"), 2, "a line a change");
    assert_eq!(gateway.process.count("the clocks of this nsqd and the gateway agree again"), 1);
}

fn without_nsqds_http_a_wrong_clock_is_known_by_its_messages() {
    for offset in [HOUR, -HOUR] {
        let nsqd = NsqdStub::start(HttpSide::Closed, offset);
        let dataserver = Stub::ok("");
        let addr = dataserver.addr().to_string();
        let gateway = gateway_of(&nsqd);
        eventually("the link", || {
            (gateway.metric(&format!("gateway_nsqd_connected{{nsqd=\"{}\"}}", nsqd.tcp)) > 0.0).then_some(())
        });
        nsqd.beat(&addr);
        // One that is ahead is known by the first message.
        let limit = Duration::from_secs(if offset > 0 { 2 } else { 6 });
        within(limit, "the live one", || (gateway.live() == [addr.as_str()]).then_some(()));
        stays_live(&gateway, &addr, Duration::from_secs(4));
        assert_eq!(gateway.process.count("cannot be asked over HTTP"), 1, "{}", gateway.process.output());
    }
}

fn what_is_not_nsqds_http_costs_its_timeout_and_no_more() {
    for http in [HttpSide::Silent, HttpSide::Another, HttpSide::Closed] {
        let nsqd = NsqdStub::start(http, 0);
        let dataserver = Stub::ok("");
        let addr = dataserver.addr().to_string();
        nsqd.beat(&addr);
        let gateway = gateway_of(&nsqd);
        // `nsq.connect_timeout` and a heartbeat.
        within(Duration::from_secs(4), "the live one", || (gateway.live() == [addr.as_str()]).then_some(()));
        stays_live(&gateway, &addr, Duration::from_secs(5));
        assert_eq!(gateway.process.count("cannot be asked over HTTP"), 1, "{}", gateway.process.output());
        assert_eq!(gateway.process.count("WARN"), 0, "{}", gateway.process.output());
    }
}

/// The machine's: that of the gateway and of the NSQ inside it.
fn the_wall_clock_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let offset = dir.path().join("offset");
    // Renamed into place: it is read all the time.
    let set_clock = |seconds: i32| {
        std::fs::write(dir.path().join("new"), format!("{seconds:+}\n")).unwrap();
        std::fs::rename(dir.path().join("new"), &offset).unwrap();
    };
    set_clock(0);
    let gateway = Apiserver::start_with(QUICK, |command| {
        command.env("LD_PRELOAD", tools::LIBFAKETIME.as_ref().unwrap());
        command.env("FAKETIME_TIMESTAMP_FILE", &offset);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1");
    });
    let (dataserver, gone) = (Stub::ok(""), Stub::ok(""));
    let addr = dataserver.addr().to_string();
    gateway.announce(&[gone.addr()]);
    eventually("one to expire", || gateway.live().is_empty().then_some(()));
    for seconds in [0, -HOUR, HOUR, 0] {
        set_clock(seconds);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            gateway.heartbeat(&addr);
            pause(Duration::from_millis(200));
            assert_eq!(gateway.live(), [addr.as_str()], "{seconds}");
        }
    }
    assert!((gateway.metric("gateway_evictions_total{reason=\"expired\"}") - 1.0).abs() < 0.1);
    assert_eq!(gone.connections(), 0);
}
