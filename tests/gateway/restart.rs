//! What a gateway knows when it starts: from heartbeats, and from the set that the one before it has left on disk.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, PATIENT, Stub, eventually, get, pause, tools, trial_with,
    trials, within,
};

/// What is tried on each kind of NSQ.
type Test = fn(Broker);

pub fn trials() -> Vec<Trial> {
    let tests: Vec<(&str, Test)> = vec![
        ("faults_35_the_first_200_comes_within_one_heartbeat_interval", a_cold_start),
        ("a_killed_gateway_is_back_with_its_set_though_nsq_is_down", a_killed_gateway_is_back),
    ];
    let mut trials = Vec::new();
    for (name, test) in tests {
        let real = format!("restart::real::{name}");
        trials.push(trial_with(&real, &tools::NSQD, move || test(Broker::Real)));
        let embedded = format!("restart::embedded::{name}");
        trials.push(trial_with(&embedded, &Ok(()), move || test(Broker::Embedded)));
    }
    trials.extend(trials![
        the_set_is_written_when_a_gateway_stops,
        nobody_gets_a_request_for_being_in_the_file,
        a_file_that_is_no_use_is_ignored_and_the_log_says_why,
        a_file_that_cannot_be_written_is_told_of_once_and_counted,
    ]);
    trials
}

/// A file in a directory that outlives gateways.
fn snapshot_in(dir: &tempfile::TempDir) -> String {
    dir.path().join("set.json").to_str().unwrap().to_owned()
}

/// The dataservers in a snapshot.
fn written(file: &str) -> Vec<Value> {
    // Whoever reads it sees the whole of one or the whole of the next.
    let text = std::fs::read_to_string(file).unwrap_or_else(|_| "{\"dataservers\":[]}".to_owned());
    let snapshot: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"));
    snapshot["dataservers"].as_array().unwrap().clone()
}

fn sorted(dataservers: &[DataserverProcess]) -> Vec<String> {
    let mut addrs: Vec<_> = dataservers.iter().map(|dataserver| dataserver.addr.clone()).collect();
    addrs.sort();
    addrs
}

/// `/readyz` tells the truth meanwhile.
fn a_cold_start(broker: Broker) {
    let interval = Duration::from_secs(2);
    let cluster = Cluster::start(broker, 2);
    let of = |more| cluster.config(false, more).replace("heart_beat_time: 1", "heart_beat_time: 2");
    let dataservers: Vec<_> = (0..3).map(|_| DataserverProcess::start(&of(""))).collect();
    // They beat already.
    let first = Apiserver::start(&of(""));
    eventually("all of them", || (first.in_rotation() == sorted(&dataservers)).then_some(()));
    let gateway = Apiserver::start(&of(""));
    let begun = Instant::now();
    loop {
        let readiness = get(gateway.listen, "/readyz");
        if readiness.status == 200 {
            break;
        }
        let reason = readiness.json()["reason"].as_str().unwrap().to_owned();
        assert!(reason.starts_with("starting: "), "{reason}");
        assert!(begun.elapsed() < interval + Duration::from_millis(500), "{reason}");
        pause(Duration::from_millis(5));
    }
    assert_eq!(get(gateway.listen, "/").status, 200);
}

fn a_killed_gateway_is_back(broker: Broker) {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot_in(&dir);
    let mut cluster = Cluster::start(broker, 1);
    let config = cluster.config(
        false,
        &format!(
            "registry: {{ttl: 2500ms, sweep_interval: 200ms, snapshot: {file}, snapshot_interval: 100ms, \
                         probe: {{give_up: 1s}}}}\n\
             nsq: {{silence_timeout: 2s}}\n"
        ),
    );
    let mut dataservers: Vec<_> =
        (0..4).map(|_| DataserverProcess::start(&cluster.config(false, ""))).collect();
    let mut gateway = Apiserver::start(&config);
    eventually("the snapshot of all", || (written(&file).len() == 4).then_some(()));
    gateway.process.kill();
    cluster.nsqds[0].kill();
    let dead = dataservers.pop().unwrap().addr.clone();

    let gateway = Apiserver::start(&config);
    let wanted = sorted(&dataservers);
    within(Duration::from_secs(1), "those that live", || {
        (get(gateway.listen, "/readyz").json()["dataservers"] == 3).then_some(())
    });
    assert_eq!(gateway.in_rotation(), wanted);
    let mut answering: Vec<_> = (0..60)
        .map(|_| {
            let reply = get(gateway.listen, "/");
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.json()["dataserver"].as_str().unwrap().to_owned()
        })
        .collect();
    answering.sort();
    answering.dedup();
    assert_eq!(answering, wanted);
    // The dead one was asked by probes, and by nobody's request.
    let metrics = gateway.metrics();
    assert!(!metrics.contains(&dead), "{metrics}");
    let told = get(gateway.listen, &format!("/dataservers/{}", wanted[0])).json();
    let kinds: Vec<_> = told["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["restored", "probe_passed"]);
    eventually("the dead one to leave", || (gateway.live() == wanted).then_some(()));

    // When NSQ is back nobody leaves who lives.
    cluster.nsqds[0].run();
    eventually("heartbeats", || (gateway.metric("gateway_registry_frozen") < 1.0).then_some(()));
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_eq!(gateway.in_rotation(), wanted);
        assert_eq!(get(gateway.listen, "/").status, 200);
        pause(Duration::from_millis(100));
    }
}

fn the_set_is_written_when_a_gateway_stops() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot_in(&dir);
    let config = format!("registry: {{ttl: 1h, snapshot: {file}, snapshot_interval: 10m}}\n");
    let mut gateway = Apiserver::start(&config);
    assert_eq!(gateway.process.count("there is no snapshot of the live set yet"), 1);
    let (stays, goes) = (Stub::ok(""), Stub::ok(""));
    gateway.announce(&[stays.addr(), goes.addr()]);
    let beat =
        |addr, state| format!(r#"{{"addr":"{addr}","proto":"h2c","id":"5e0c","seq":7,"state":"{state}"}}"#);
    gateway.heartbeat(&beat(stays.addr(), "up"));
    gateway.heartbeat(&beat(goes.addr(), "draining"));
    let path = format!("/dataservers/{}", goes.addr());
    eventually("the goodbye", || (get(gateway.listen, &path).json()["state"] == "draining").then_some(()));
    assert!(!Path::new(&file).exists());
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    let stays = stays.addr().to_string();
    assert_eq!(written(&file), [json!({"addr": stays, "proto": "h2c", "id": "5e0c", "seq": 7})]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");

    let gateway = Apiserver::start(&config);
    eventually("the probe", || (gateway.in_rotation() == [stays.clone()]).then_some(()));
    let told = get(gateway.listen, &format!("/dataservers/{stays}")).json();
    assert_eq!((&told["process"], &told["protocol"]), (&"5e0c".into(), &"h2c".into()));
    assert_eq!(told["heartbeats"], 0);
}

/// A snapshot as the gateway before might have left it.
fn snapshot(written_at: SystemTime, dataservers: &Value) -> String {
    let written_at = humantime::format_rfc3339(written_at).to_string();
    json!({"version": 1, "written_at": written_at, "dataservers": dataservers}).to_string()
}

fn nobody_gets_a_request_for_being_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = snapshot_in(&dir);
    let (lives, dead) = (Stub::ok("lives"), Stub::refusing());
    let dataservers =
        [lives.addr().to_string(), dead.to_string(), format!("127.0.0.2:{}", lives.addr().port())];
    let dataservers: Vec<_> =
        dataservers.iter().map(|addr| json!({"addr": addr, "proto": "http/1.1"})).collect();
    std::fs::write(&file, snapshot(SystemTime::now(), &json!(dataservers))).unwrap();
    let gateway = Apiserver::start(&format!("registry: {{ttl: 1h, allow: [127.0.0.1], snapshot: {file}}}\n"));
    let restored = gateway.process.wait_for("restored", |line| {
        line.contains("the live set is restored").then(|| serde_json::from_str::<Value>(line).unwrap())
    });
    // Whoever is not allowed any more is not even probed.
    assert_eq!((&restored["restored"], &restored["refused"]), (&2.into(), &1.into()));
    within(Duration::from_secs(1), "the probe", || {
        (get(gateway.listen, "/readyz").status == 200).then_some(())
    });
    assert_eq!(gateway.in_rotation(), [lives.addr().to_string()]);
    for _ in 0..20 {
        assert_eq!(get(gateway.listen, "/").text(), "lives");
    }
    assert!(!gateway.metrics().contains(&dead.to_string()));
    // It is asked again and again, as long as it may come back.
    let probed = |gateway: &Apiserver| gateway.metric("gateway_probes_total{result=\"failed\"}");
    eventually("more probes", || (probed(&gateway) >= 2.0).then_some(()));
}

fn a_file_that_is_no_use_is_ignored_and_the_log_says_why() {
    let stub = Stub::ok("");
    let one = json!([{"addr": stub.addr().to_string(), "proto": "http/1.1"}]);
    let now = SystemTime::now();
    let good = snapshot(now, &one);
    for (content, why) in [
        (snapshot(now - Duration::from_secs(6 * 10 + 30), &one), "is 1m 3"),
        (snapshot(now + Duration::from_secs(3600), &one), "was written in the future"),
        (good[..good.len() / 2].to_owned(), "is not a snapshot, or broken off: see line 1, column "),
        (String::new(), "is not a snapshot"),
        (good.replace("\"version\":1", "\"version\":2"), "is of version 2"),
        (
            good.replace(&stub.addr().to_string(), "0.0.0.0:1"),
            "names dataserver 1 whose address is unspecified",
        ),
        (format!("{good}{}", " ".repeat(6_000)), "is larger than 5632 bytes"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = snapshot_in(&dir);
        std::fs::write(&file, content).unwrap();
        let config = format!("registry: {{capacity: 10, snapshot: {file}, snapshot_interval: 100ms}}\n");
        let gateway = Apiserver::start(&config);
        let said = format!("the snapshot of the live set {why}");
        assert_eq!(gateway.process.count(&said), 1, "{why}: {}", gateway.process.output());
        assert_eq!(gateway.live(), Vec::<String>::new(), "{why}");
        // The next one is better.
        eventually("a snapshot", || (gateway.metric(WRITTEN) > 0.0).then_some(()));
        assert!(written(&file).is_empty());
    }
}

const WRITTEN: &str = "gateway_snapshot_writes_total{result=\"written\"}";
const FAILED: &str = "gateway_snapshot_writes_total{result=\"failed\"}";

fn a_file_that_cannot_be_written_is_told_of_once_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let file = inner.join("set.json");
    let snapshot = format!("snapshot: {}, snapshot_interval: 100ms, ", file.display());
    let gateway = Apiserver::start(&PATIENT.replace("ttl", &format!("{snapshot}ttl")));
    let told = |gateway: &Apiserver| get(gateway.listen, "/readyz?verbose").json()["snapshot"].clone();
    eventually("a snapshot", || file.exists().then_some(()));
    std::fs::remove_dir_all(&inner).unwrap();
    eventually("some failures", || (gateway.metric(FAILED) >= 3.0).then_some(()));
    assert_eq!(gateway.process.count("the snapshot of the live set cannot be written: No such file"), 1);
    assert_eq!(told(&gateway)["failing"], true);
    std::fs::create_dir(&inner).unwrap();
    gateway.process.wait_for("recovery", |line| line.contains("is written again").then_some(()));
    let told = told(&gateway);
    assert_eq!(told["failing"], false);
    humantime::parse_rfc3339(told["written_at"].as_str().unwrap()).unwrap();
}
