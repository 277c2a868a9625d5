//! The admin paths.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use libtest_mimic::Trial;

use crate::support::{Apiserver, PATIENT, Stub, exchange, get, request, tools, trial_with, trials};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        dataservers_are_listed_with_what_is_known_of_them,
        one_dataserver_is_shown_by_its_address,
        readyz_says_no_until_somebody_is_live,
        a_client_outside_admin_allow_gets_403_and_sees_nothing,
        with_admin_listen_the_admin_paths_move_and_listen_forwards_every_path,
        only_get_is_answered,
        metrics_count_what_happened,
    ];
    let promtool = &*tools::PROMTOOL;
    trials.push(trial_with("admin::promtool_finds_nothing_in_the_metrics", promtool, promtool_finds_nothing));
    trials
}

fn dataservers_are_listed_with_what_is_known_of_them() {
    let gateway = Apiserver::start(PATIENT);
    let reply = get(gateway.listen, "/dataservers");
    assert_eq!(reply.json(), serde_json::json!({"frozen": false, "dataservers": []}));
    let (one, two) = (Stub::ok("one"), Stub::ok("two"));
    gateway.announce(&[one.addr(), two.addr()]);
    for _ in 0..20 {
        assert_eq!(get(gateway.listen, "/").status, 200);
    }
    let reply = get(gateway.listen, "/dataservers");
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let list = reply.json()["dataservers"].as_array().unwrap().clone();
    let addrs: Vec<_> = list.iter().map(|entry| entry["addr"].as_str().unwrap().to_owned()).collect();
    let mut sorted = addrs.clone();
    sorted.sort();
    assert_eq!(addrs, sorted);
    let mut requests = 0;
    for entry in &list {
        assert_eq!(entry["state"], "live");
        assert_eq!(entry["heartbeats"], 1);
        assert_eq!((&entry["in_flight"], &entry["failures"]), (&0.into(), &0.into()));
        assert!(entry["age_seconds"].as_f64().unwrap() < 30.0);
        for time in ["first_seen", "last_heartbeat"] {
            let time = entry[time].as_str().unwrap();
            humantime::parse_rfc3339(time).unwrap_or_else(|error| panic!("{time}: {error}"));
        }
        requests += entry["requests"].as_u64().unwrap();
    }
    assert_eq!(requests, 20);
}

fn one_dataserver_is_shown_by_its_address() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let entry = get(gateway.listen, &format!("/dataservers/{}", stub.addr())).json();
    assert_eq!(entry["addr"], stub.addr().to_string());
    assert_eq!(entry["protocol"], "http/1.1");
    for unknown in ["/dataservers/127.0.0.1:1", "/dataservers/nonsense", "/dataservers/"] {
        let reply = get(gateway.listen, unknown);
        assert_eq!(reply.status, 404, "{unknown}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{unknown}");
    }
}

fn readyz_says_no_until_somebody_is_live() {
    let gateway = Apiserver::start(PATIENT);
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
    let reply = get(gateway.listen, "/readyz");
    assert_eq!((reply.status, &reply.json()["reason"]), (503, &"no live dataserver".into()));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let reply = get(gateway.listen, "/readyz");
    assert_eq!((reply.status, &reply.json()["ready"]), (200, &true.into()));
}

fn a_client_outside_admin_allow_gets_403_and_sees_nothing() {
    let gateway = Apiserver::start("gateway: {admin_allow: [10.0.0.0/8]}\nregistry: {ttl: 1h}\n");
    for path in ["/dataservers", "/dataservers/127.0.0.1:1", "/metrics", "/healthz", "/readyz"] {
        let reply = get(gateway.listen, path);
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.json()["title"], "Forbidden");
        assert!(!reply.text().contains("dataservers\""));
    }
    // Everything else is not the admin's.
    assert_eq!(get(gateway.listen, "/").status, 503);
}

fn with_admin_listen_the_admin_paths_move_and_listen_forwards_every_path() {
    let gateway = Apiserver::start("gateway: {admin_listen: '127.0.0.1:0'}\nregistry: {ttl: 1h}\n");
    let admin = gateway.admin.unwrap();
    let stub = Stub::ok("forwarded");
    gateway.announce(&[stub.addr()]);
    for path in ["/dataservers", "/metrics", "/healthz", "/readyz", "/dataservers/x"] {
        assert_eq!(get(gateway.listen, path).text(), "forwarded", "{path}");
        assert_ne!(get(admin, path).text(), "forwarded", "{path}");
    }
    let reply = get(admin, "/");
    assert_eq!((reply.status, reply.header("content-type")), (404, Some("application/problem+json")));
}

fn only_get_is_answered() {
    let gateway = Apiserver::start("");
    let ask = |to: SocketAddr, method: &str| {
        exchange(to, &request(&format!("{method} /readyz"), &[("connection", "close")], b""))
    };
    assert_eq!(ask(gateway.listen, "POST").status, 405);
    assert_eq!(ask(gateway.listen, "HEAD").status, 503);
}

fn metrics_count_what_happened() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let forwarded = [("GET", 3), ("POST", 2)];
    for (method, times) in forwarded {
        for _ in 0..times {
            exchange(
                gateway.listen,
                &request(&format!("{method} /some/path"), &[("connection", "close")], b""),
            );
        }
    }
    for (series, value) in [
        ("gateway_heartbeats_total{result=\"joined\"}", 1.0),
        ("gateway_heartbeats_total{result=\"refused_empty\"}", 0.0),
        ("gateway_dataserver_joins_total", 1.0),
        ("gateway_dataservers{state=\"live\"}", 1.0),
        ("gateway_evictions_total{reason=\"expired\"}", 0.0),
        ("gateway_registry_frozen", 0.0),
        ("gateway_requests_total{method=\"GET\",code=\"200\"}", 3.0),
        ("gateway_requests_total{method=\"POST\",code=\"200\"}", 2.0),
        ("gateway_request_duration_seconds_count", 5.0),
        ("gateway_requests_in_flight", 0.0),
        (&format!("gateway_upstream_requests_total{{dataserver=\"{}\",code=\"2xx\"}}", stub.addr()), 5.0),
        ("gateway_retries_total{reason=\"connect\"}", 0.0),
    ] {
        assert!(
            (gateway.metric(series) - value).abs() < f64::EPSILON,
            "{series} is not {value} in {}",
            gateway.metrics()
        );
    }
    let [tcp, ..] = gateway.nsq.unwrap();
    assert!(gateway.metric(&format!("gateway_nsqd_connected{{nsqd=\"{tcp}\"}}")) > 0.0);
    assert!(gateway.metric("gateway_last_heartbeat_timestamp_seconds") > 1.7e9);
    assert!(gateway.metric("gateway_connections{protocol=\"http1\"}") >= 1.0);
    assert!(gateway.metric("process_resident_memory_bytes") > 0.0);
    // Labels are bounded: no path and no Host is in there.
    assert!(!gateway.metrics().contains("/some/path"));
}

fn promtool_finds_nothing() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr(), Stub::refusing()]);
    for _ in 0..20 {
        get(gateway.listen, "/");
    }
    let mut promtool = Command::new(tools::PROMTOOL.as_ref().unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(gateway.metrics().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
