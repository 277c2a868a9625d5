//! nsqds whose clocks are wrong.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::QUICK;
use crate::support::{Apiserver, HttpSide, NsqdStub, Stub, eventually, get, pause, trials, within};

pub fn trials() -> Vec<Trial> {
    trials![
        faults_17_the_past_stays_dead_though_the_nsqds_clock_is_an_hour_off,
        faults_17_the_past_stays_dead_without_nsqds_http_if_its_clock_is_right,
        a_clock_that_is_set_while_connected_expires_nobody,
        without_nsqds_http_a_wrong_clock_is_known_by_its_messages,
        what_is_not_nsqds_http_costs_its_timeout_and_no_more,
    ]
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
