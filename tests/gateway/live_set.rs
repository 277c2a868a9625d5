//! Who gets requests when dataservers fail and when heartbeats cannot be heard: what users, `/dataservers` and `/metrics`
//! see of doubts, probes, ejections and the freeze. The drills show the same under load and measure it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use serde_json::Value;
use socket2::SockRef;

use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, PATIENT, Stub, eventually, get, pause, tools, trial_with,
    trials, within,
};

/// What is tried on each kind of NSQ.
type Test = fn(Broker);

pub fn trials() -> Vec<Trial> {
    let tests: Vec<(&str, Test)> = vec![
        ("faults_12_without_an_nsqd_nobody_is_evicted_and_the_set_thaws", without_an_nsqd),
        ("faults_14_one_that_dies_while_nsq_is_down_fails_its_probe", one_dies_while_nsq_is_down),
    ];
    let mut trials = Vec::new();
    for (name, test) in tests {
        let real = format!("live_set::real::{name}");
        trials.push(trial_with(&real, &tools::NSQD, move || test(Broker::Real)));
        let embedded = format!("live_set::embedded::{name}");
        trials.push(trial_with(&embedded, &Ok(()), move || test(Broker::Embedded)));
    }
    trials.extend(trials![
        faults_4_one_that_takes_requests_and_hangs_is_ejected_and_comes_back,
        faults_6_one_that_resets_connections_gets_no_more_requests,
        faults_6_one_that_passes_probes_and_fails_requests_is_ejected,
        faults_13_when_all_fall_silent_only_who_fails_its_probes_leaves,
        the_last_one_of_a_set_that_is_frozen_leaves_at_the_ttl,
        a_set_that_becomes_empty_while_it_is_frozen_has_heard_nobody,
        faults_19_of_a_crowd_each_has_to_pass_a_probe_first,
        a_probe_asks_for_what_the_config_says,
    ]);
    trials
}

/// Something that a stub does while it is set.
#[derive(Clone, Default)]
struct Fault(Arc<AtomicBool>);

impl Fault {
    fn begins(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn ends(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The kinds of what happened to a dataserver, the oldest first.
fn events(gateway: &Apiserver, addr: SocketAddr) -> Vec<String> {
    let known = get(gateway.listen, &format!("/dataservers/{addr}")).json();
    let events = known["events"].as_array().unwrap_or_else(|| panic!("no events in {known}"));
    events.iter().map(|event| event["kind"].as_str().unwrap().to_owned()).collect()
}

/// What happened last to a dataserver.
fn last_event(gateway: &Apiserver, addr: SocketAddr) -> String {
    let known = get(gateway.listen, &format!("/dataservers/{addr}")).json();
    known["events"].as_array().unwrap().last().unwrap()["what"].as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_for_state(gateway: &Apiserver, addr: SocketAddr, state: &str) {
    eventually(state, || (gateway.state(addr)? == state).then_some(()));
}

/// Requests that a dataserver was sent and did not answer.
fn failures(gateway: &Apiserver, addr: SocketAddr) -> f64 {
    let prefix = format!("gateway_upstream_errors_total{{dataserver=\"{addr}\"");
    let metrics = gateway.metrics();
    let series = metrics.lines().filter(|line| line.starts_with(&prefix));
    series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn evicted(gateway: &Apiserver, reason: &str) -> f64 {
    gateway.metric(&format!("gateway_evictions_total{{reason=\"{reason}\"}}"))
}

/// Why the set is frozen; null if it is not.
fn frozen(gateway: &Apiserver) -> Value {
    let list = get(gateway.listen, "/dataservers").json();
    assert_eq!(list["frozen"] == true, !list["frozen_reason"].is_null(), "{list}");
    list["frozen_reason"].clone()
}

/// So many requests, none of which fails.
#[track_caller]
fn all_answered(gateway: &Apiserver, requests: usize) {
    for _ in 0..requests {
        let reply = get(gateway.listen, "/");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

fn faults_4_one_that_takes_requests_and_hangs_is_ejected_and_comes_back() {
    let hangs = Fault::default();
    let hanging = hangs.clone();
    let stub = Stub::answering(move |_| {
        while hanging.is_on() {
            pause(Duration::from_millis(5));
        }
        OK.to_vec()
    });
    let others = [Stub::ok(""), Stub::ok("")];
    let ejection = "registry: {ttl: 1h, ejection: {failures: 3, duration: 500ms}}\n";
    let gateway = Apiserver::start(&format!("{ejection}timeouts: {{response_head: 100ms}}\n"));
    gateway.announce(&[stub.addr(), others[0].addr(), others[1].addr()]);
    hangs.begins();
    let mut late = 0;
    eventually("the ejection", || {
        late += usize::from(get(gateway.listen, "/").status == 504);
        (gateway.state(stub.addr())? == "ejected").then_some(())
    });
    assert_eq!(late, 3);
    hangs.ends();
    wait_for_state(&gateway, stub.addr(), "live");
    assert_eq!(events(&gateway, stub.addr()), ["joined", "ejected", "probe_passed"]);
    assert!((gateway.metric("gateway_ejections_total") - 1.0).abs() < 0.1);
    all_answered(&gateway, 60);
    assert!(stub.requests().len() > late);
    // The second time is twice as long.
    hangs.begins();
    eventually("the ejection", || {
        get(gateway.listen, "/");
        last_event(&gateway, stub.addr()).starts_with("ejected for 1s").then_some(())
    });
    hangs.ends();
}

fn faults_6_one_that_resets_connections_gets_no_more_requests() {
    let (resets, fine) = (Fault::default(), Stub::ok(""));
    let resetting = resets.clone();
    let stub = Stub::raw(move |stream: TcpStream| {
        if resetting.is_on() {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
            return;
        }
        // Whoever only wanted to know whether it lives says nothing, and goes.
        let mut reader = std::io::BufReader::new(&stream);
        if crate::support::read_head(&mut reader).is_some() {
            let close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _ = std::io::Write::write_all(&mut &stream, close);
        }
    });
    resets.begins();
    let gateway = Apiserver::start("registry: {ttl: 1h, probe: {interval: 200ms, hold: 2s}}\n");
    gateway.announce(&[stub.addr(), fine.addr()]);
    eventually("a probe to fail", || {
        all_answered(&gateway, 1);
        events(&gateway, stub.addr()).contains(&"probe_failed".to_owned()).then_some(())
    });
    let sent = failures(&gateway, stub.addr());
    let probes = stub.connections();
    eventually("more probes", || {
        all_answered(&gateway, 10);
        (stub.connections() > probes + 3).then_some(())
    });
    assert_eq!(gateway.state(stub.addr()).unwrap(), "suspect");
    assert!((failures(&gateway, stub.addr()) - sent).abs() < 0.1, "no more requests");
    resets.ends();
    wait_for_state(&gateway, stub.addr(), "live");
    all_answered(&gateway, 20);
}

fn faults_6_one_that_passes_probes_and_fails_requests_is_ejected() {
    let (closing, fine) = (Stub::answering(|_| Vec::new()), Stub::ok(""));
    let probes = "registry: {ttl: 1h, probe: {interval: 10ms, hold: 10ms}}\n";
    let gateway = Apiserver::start(probes);
    gateway.announce(&[closing.addr(), fine.addr()]);
    eventually("the ejection", || {
        all_answered(&gateway, 1);
        (gateway.state(closing.addr())? == "ejected").then_some(())
    });
    assert_eq!(events(&gateway, closing.addr()), ["joined", "suspect", "probe_passed", "ejected"]);
    assert_eq!(last_event(&gateway, closing.addr()), "ejected for 10s: it passes probes and fails requests");
    assert_eq!(closing.requests().len(), 2);
}

const QUICK: &str = "registry: {ttl: 1s, sweep_interval: 100ms}\nnsq: {reconnect_max: 1s}\n";

fn without_an_nsqd(broker: Broker) {
    let mut cluster = Cluster::start(broker, 1);
    let gateway = Apiserver::start(&cluster.config(false, QUICK));
    let stubs = [Stub::ok(""), Stub::ok(""), Stub::ok("")];
    let mut all = stubs.each_ref().map(|stub| stub.addr().to_string());
    all.sort();
    let beat = |cluster: &Cluster| all.iter().for_each(|addr| cluster.nsqds[0].publish(addr.as_bytes()));
    eventually("all to be live", || {
        beat(&cluster);
        (gateway.in_rotation() == all).then_some(())
    });
    cluster.nsqds[0].kill();
    eventually("the freeze", || (frozen(&gateway) == "no_nsqd").then_some(()));
    // Three TTLs.
    pause(Duration::from_secs(3));
    assert_eq!((gateway.in_rotation(), frozen(&gateway)), (all.to_vec(), "no_nsqd".into()));
    assert!(gateway.metric("gateway_registry_frozen") > 0.0);
    all_answered(&gateway, 20);
    cluster.nsqds[0].run();
    within(Duration::from_secs(10), "the thaw", || {
        beat(&cluster);
        frozen(&gateway).is_null().then_some(())
    });
    let thawed = Instant::now();
    while thawed.elapsed() < Duration::from_millis(1500) {
        beat(&cluster);
        assert_eq!(gateway.in_rotation(), all);
        pause(Duration::from_millis(50));
    }
    assert!(evicted(&gateway, "expired") + evicted(&gateway, "probe_failed") < 0.1);
    assert!(gateway.metric("gateway_registry_frozen") < 0.1);
}

/// Its TTL is an hour: it is not its silence that tells.
fn one_dies_while_nsq_is_down(broker: Broker) {
    let mut cluster = Cluster::start(broker, 1);
    let gateway = Apiserver::start(&cluster.config(false, PATIENT));
    let mut dataservers: Vec<_> =
        (0..3).map(|_| DataserverProcess::start(&cluster.config(false, ""))).collect();
    eventually("all to be live", || (gateway.in_rotation().len() == 3).then_some(()));
    cluster.nsqds[0].kill();
    eventually("the freeze", || (frozen(&gateway) == "no_nsqd").then_some(()));
    let mut dead = dataservers.pop().unwrap();
    dead.process.kill();
    let addr = dead.addr.parse().unwrap();
    // Nobody asks it for anything meanwhile.
    within(Duration::from_secs(10), "the probe", || (gateway.state(addr)? == "suspect").then_some(()));
    assert_eq!(events(&gateway, addr).last().unwrap(), "probe_failed");
    all_answered(&gateway, 30);
    assert!(failures(&gateway, addr) < 0.1);
    assert_eq!(gateway.in_rotation().len(), 2);
}

/// The nsqd is there and says nothing, as one does that is stopped or cut off and not yet missed.
fn faults_13_when_all_fall_silent_only_who_fails_its_probes_leaves() {
    let stubs = [Stub::ok(""), Stub::ok("")];
    let (dead, alive) = (Stub::refusing(), stubs.each_ref().map(Stub::addr));
    let probes = "probe: {interval: 100ms, give_up: 1s}";
    let gateway = Apiserver::start(&format!("registry: {{ttl: 1s, sweep_interval: 100ms, {probes}}}\n"));
    gateway.announce(&[alive[0], alive[1], dead]);
    eventually("the freeze", || (frozen(&gateway) == "silence").then_some(()));
    wait_for_state(&gateway, dead, "suspect");
    eventually("the eviction", || gateway.state(dead).is_none().then_some(()));
    assert!(last_event(&gateway, dead).ends_with("; its probes fail"));
    // Their silence is as long.
    let mut rotation = alive.map(|addr| addr.to_string());
    rotation.sort();
    assert_eq!(gateway.in_rotation(), rotation);
    all_answered(&gateway, 20);
    eventually("the thaw", || {
        for addr in alive {
            gateway.heartbeat(&addr.to_string());
        }
        frozen(&gateway).is_null().then_some(())
    });
    assert_eq!(gateway.in_rotation(), rotation);
    eventually("the count", || (evicted(&gateway, "probe_failed") > 0.9).then_some(()));
    assert!(evicted(&gateway, "expired") < 0.1);
}

const LEAVES_SOON: &str =
    "registry: {ttl: 1s, sweep_interval: 100ms, probe: {interval: 100ms, give_up: 1s}}\n";

/// With the others gone its silence is its own, though it answers every probe.
fn the_last_one_of_a_set_that_is_frozen_leaves_at_the_ttl() {
    let (last, dead) = (Stub::ok(""), Stub::refusing());
    let gateway = Apiserver::start(LEAVES_SOON);
    gateway.announce(&[last.addr(), dead]);
    eventually("the freeze", || (frozen(&gateway) == "silence").then_some(()));
    eventually("the eviction", || gateway.state(dead).is_none().then_some(()));
    within(Duration::from_secs(5), "its end", || {
        last_event(&gateway, last.addr()).starts_with("evicted: silent for").then_some(())
    });
    assert!(frozen(&gateway).is_null());
    let thaws = |line: &str| line.contains("one dataserver is left").then_some(());
    gateway.process.wait_for("word of the thaw", thaws);
    assert_eq!(gateway.process.count("heartbeats flow again"), 0);
}

fn a_set_that_becomes_empty_while_it_is_frozen_has_heard_nobody() {
    let mut cluster = Cluster::start(Broker::Embedded, 1);
    let dead = Stub::refusing();
    let gateway = Apiserver::start(&cluster.config(false, LEAVES_SOON));
    eventually("it to be live", || {
        cluster.nsqds[0].publish(dead.to_string().as_bytes());
        (gateway.in_rotation().len() == 1).then_some(())
    });
    cluster.nsqds[0].kill();
    gateway.process.wait_for("word of the thaw", |line| line.contains("the live set is empty").then_some(()));
    assert!(frozen(&gateway).is_null() && gateway.live().is_empty());
    assert_eq!(gateway.process.count("heartbeats flow again"), 0);
}

fn faults_19_of_a_crowd_each_has_to_pass_a_probe_first() {
    let [first, last] = [Stub::ok(""), Stub::ok("")];
    let gateway = Apiserver::start("registry: {ttl: 1h, trusted_joins: 1}\n");
    gateway.announce(&[first.addr()]);
    let crowd = Stub::all_refusing(10);
    for addr in crowd.iter().chain([&last.addr()]) {
        gateway.heartbeat(&addr.to_string());
    }
    wait_for_state(&gateway, last.addr(), "live");
    eventually("all probes to fail", || {
        (gateway.metric("gateway_probes_total{result=\"failed\"}") > 9.9).then_some(())
    });
    eventually("both to answer", || {
        all_answered(&gateway, 10);
        (!first.requests().is_empty() && !last.requests().is_empty()).then_some(())
    });
    for addr in crowd {
        assert_eq!(gateway.state(addr).unwrap(), "suspect");
        assert!(failures(&gateway, addr) < 0.1, "it got a request");
    }
}

fn a_probe_asks_for_what_the_config_says() {
    let (ill, fine) = (Fault::default(), Stub::ok(""));
    let is_ill = ill.clone();
    let stub = Stub::answering(move |request| match (request.first.contains(" /well "), is_ill.is_on()) {
        (_, false) => OK.to_vec(),
        (true, true) => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_vec(),
        (false, true) => Vec::new(),
    });
    let gateway = Apiserver::start("registry: {ttl: 1h, probe: {path: /well, interval: 100ms}}\n");
    gateway.announce(&[stub.addr(), fine.addr()]);
    ill.begins();
    eventually("a probe to fail", || {
        all_answered(&gateway, 1);
        (last_event(&gateway, stub.addr()) == "a probe failed: it answers 503 Service Unavailable")
            .then_some(())
    });
    assert_eq!(gateway.state(stub.addr()).unwrap(), "suspect");
    ill.ends();
    wait_for_state(&gateway, stub.addr(), "live");
}
