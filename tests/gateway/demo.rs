//! What the README's commands do, and the sample dataserver.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, DataserverProcess, H2Stub, Process, Stub, eventually, get, pause, post, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        the_demo_has_three_live_dataservers_and_answers_from_each,
        a_dataserver_is_routable_half_a_second_after_its_first_heartbeat,
        an_address_published_by_hand_is_live_and_then_gone_and_counted,
        the_sample_dataserver_answers_what_it_promises,
        announce_announces_a_service_only_while_its_probe_answers,
        announce_says_what_a_service_speaks,
    ]
}

fn the_demo_has_three_live_dataservers_and_answers_from_each() {
    let config = "common: {server_addr: '127.0.0.1:0'}\n";
    let demo = Apiserver::start_with(config, |command| {
        command.arg("demo");
    });
    let tries = demo
        .process
        .wait_for("what to try", |line| line.contains("curl localhost:").then(|| line.to_owned()));
    assert!(tries.contains(&demo.listen.port().to_string()), "{tries}");
    let live = eventually("three live dataservers", || Some(demo.live()).filter(|live| live.len() == 3));
    let mut answered: Vec<_> =
        (0..60).map(|_| get(demo.listen, "/").json()["dataserver"].as_str().unwrap().to_owned()).collect();
    answered.sort();
    answered.dedup();
    assert_eq!(answered, live);
    let list = get(demo.listen, "/dataservers").json();
    assert!(list["dataservers"].as_array().unwrap().iter().all(|entry| entry["state"] == "live"));
}

/// A config for a dataserver that announces itself to a gateway's embedded NSQ.
fn announcing_to(gateway: &Apiserver) -> String {
    format!("common: {{heart_beat_time: 1, nsqd: ['{}']}}\n", gateway.nsq.unwrap()[0])
}

fn a_dataserver_is_routable_half_a_second_after_its_first_heartbeat() {
    let gateway = Apiserver::start("");
    let dataserver = DataserverProcess::start(&announcing_to(&gateway));
    dataserver.process.wait_for("first heartbeat", |line| line.contains("announced").then_some(()));
    let announced = Instant::now();
    eventually("an answer", || (get(gateway.listen, "/").status == 200).then_some(()));
    let took = announced.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
}

fn an_address_published_by_hand_is_live_and_then_gone_and_counted() {
    let gateway = Apiserver::start("registry: {ttl: 2s, sweep_interval: 200ms}\n");
    let stub = Stub::ok("by hand");
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").text(), "by hand");
    gateway.wait_for_live(&[]);
    assert_eq!(get(gateway.listen, "/").status, 503);
    eventually("the eviction to be counted", || {
        (gateway.metric("gateway_evictions_total{reason=\"expired\"}") > 0.0).then_some(())
    });
    let told = gateway
        .process
        .wait_for("eviction", |line| line.contains("dataserver evicted").then(|| line.to_owned()));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["dataserver"], &told["reason"]), (&stub.addr().to_string().into(), &"expired".into()));
    assert!(told["silent_seconds"].as_f64().unwrap() > 2.0);
}

fn the_sample_dataserver_answers_what_it_promises() {
    let dataserver = DataserverProcess::start("name: sample\n");
    let addr: SocketAddr = dataserver.addr.parse().unwrap();
    let who = get(addr, "/some/path?x=1").json();
    assert_eq!((&who["dataserver"], &who["name"]), (&dataserver.addr.clone().into(), &"sample".into()));
    assert_eq!((&who["method"], &who["path"]), (&"GET".into(), &"/some/path?x=1".into()));
    assert_eq!(who["headers"]["host"], "test");
    assert_eq!(get(addr, "/healthz").status, 200);
    assert_eq!(post(addr, "/echo", b"there and back").text(), "there and back");
    let bytes = get(addr, "/bytes/1000000");
    assert_eq!((bytes.body.len(), bytes.header("content-length")), (1_000_000, Some("1000000")));
    assert_eq!(get(addr, "/bytes/99999999999").status, 400);
    let begun = Instant::now();
    assert_eq!(get(addr, "/delay/300").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

fn announce_announces_a_service_only_while_its_probe_answers() {
    let gateway = Apiserver::start("registry: {ttl: 2500ms, sweep_interval: 200ms}\n");
    let health = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let healthy = health.clone();
    let service = Stub::answering(move |exchange| {
        let fine =
            exchange.first != "GET /health HTTP/1.1" || healthy.load(std::sync::atomic::Ordering::SeqCst);
        let status = if fine { "200 OK" } else { "500 Broken" };
        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes()
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, announcing_to(&gateway)).unwrap();
    let addr = service.addr().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
    command
        .args(["announce", "--addr", &addr, "--probe", &format!("http://{addr}/health"), "--config"])
        .arg(&file);
    let announcer = Process::start(&mut command);

    announcer.wait_for("refusal", |line| line.contains("its probe fails: it answers 500").then_some(()));
    pause(Duration::from_secs(2));
    assert_eq!(gateway.live(), Vec::<String>::new());
    health.store(true, std::sync::atomic::Ordering::SeqCst);
    gateway.wait_for_live(&[&addr]);
    health.store(false, std::sync::atomic::Ordering::SeqCst);
    gateway.wait_for_live(&[]);
    assert_eq!(announcer.count("its probe fails"), 2, "a line a change: {}", announcer.output());
}

fn announce_says_what_a_service_speaks() {
    let gateway = Apiserver::start("");
    let service = H2Stub::ok("two");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, announcing_to(&gateway)).unwrap();
    let addr = service.addr().to_string();
    let announce = |proto: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
        command.args(["announce", "--addr", &addr, "--proto", proto, "--config"]).arg(&file);
        Process::start(&mut command)
    };
    let _announcer = announce("h2c");
    gateway.wait_for_live(&[&addr]);
    assert_eq!(get(gateway.listen, "/").text(), "two");
    let mut refused = announce("h3");
    assert_eq!(refused.wait().code(), Some(1));
    assert!(refused.output().contains("neither http/1.1 nor h2c"), "{}", refused.output());
}
