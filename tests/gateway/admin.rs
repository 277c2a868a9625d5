//! The admin paths.

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::{
    Apiserver, PATIENT, Stub, connect, eventually, exchange, get, post, read_reply, request, tools,
    trial_with, trials,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        dataservers_are_listed_with_what_is_known_of_them,
        who_ask_for_a_large_set_leave_room_for_others,
        one_dataserver_is_shown_by_its_address,
        one_dataserver_tells_which_process_it_is_and_what_happened_to_it,
        one_that_has_left_is_404_and_still_tells_why,
        readyz_says_no_until_somebody_is_live,
        readyz_says_yes_while_those_that_drain_are_all_there_is,
        readyz_tells_a_start_from_the_loss_of_everybody,
        readyz_verbose_tells_what_there_is_to_know,
        a_client_outside_admin_allow_gets_403_and_sees_nothing,
        behind_a_trusted_proxy_whoever_it_names_must_be_in_admin_allow,
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

/// They are answered by the threads that take in heartbeats as well: who asks after them does not wait for all of them.
fn who_ask_for_a_large_set_leave_room_for_others() {
    const MANY: usize = 30;
    let gateway = Apiserver::start("registry: {ttl: 1h, join_rate: 1000000, trusted_joins: 1000000}\n");
    let addrs: Vec<_> = (0..4000).map(|n| format!("127.0.{}.{}:1", 9 + n / 200, 1 + n % 200)).collect();
    let [_, http, _] = gateway.nsq.unwrap();
    assert_eq!(post(http, "/mpub?topic=data_server_addr", addrs.join("\n").as_bytes()).status, 200);
    eventually("all of them", || (gateway.live().len() == addrs.len()).then_some(()));
    let answered = Arc::<AtomicUsize>::default();
    let asking: Vec<_> = (0..MANY)
        .map(|_| {
            let (mut stream, answered) = (connect(gateway.listen), answered.clone());
            stream.write_all(&request("GET /dataservers", &[], b"")).unwrap();
            std::thread::spawn(move || {
                let reply = read_reply(&mut BufReader::new(&stream), false).expect("no answer");
                answered.fetch_add(1, Ordering::SeqCst);
                assert_eq!(reply.status, 200);
            })
        })
        .collect();
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
    let before = answered.load(Ordering::SeqCst);
    assert!(before < MANY / 2, "{before} of {MANY} were answered first");
    for asking in asking {
        asking.join().unwrap();
    }
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

/// Kinds and sentences of the events in an answer, of which the times are in order.
#[track_caller]
fn events(answer: &Value) -> Vec<(String, String)> {
    let events = answer["events"].as_array().unwrap_or_else(|| panic!("no events in {answer}"));
    let times = events.iter().map(|event| humantime::parse_rfc3339(event["at"].as_str().unwrap()).unwrap());
    assert!(times.is_sorted(), "{answer}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    events.iter().map(|event| (text(&event["kind"]), text(&event["what"]))).collect()
}

fn one_dataserver_tells_which_process_it_is_and_what_happened_to_it() {
    let gateway = Apiserver::start(PATIENT);
    let [nsqd, ..] = gateway.nsq.unwrap();
    let dead = Stub::refusing();
    gateway.announce(&[dead]);
    let path = format!("/dataservers/{dead}");
    assert_eq!(get(gateway.listen, &path).json().get("process"), None, "it did not say");
    gateway.heartbeat(&format!(r#"{{"addr":"{dead}","id":"5e0c","seq":1}}"#));
    eventually("the process", || (get(gateway.listen, &path).json()["process"] == "5e0c").then_some(()));
    assert_eq!(get(gateway.listen, "/").status, 502);
    let told = eventually("the probe", || {
        let told = events(&get(gateway.listen, &path).json());
        told.iter().any(|(kind, _)| kind == "probe_failed").then_some(told)
    });
    let kinds: Vec<_> = told.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["joined", "suspect", "probe_failed"]);
    let whats: Vec<_> = told.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(whats[0], format!("joined: a heartbeat came by {nsqd}"));
    assert_eq!(whats[1], "suspect: a request to it failed (connect)");
    assert!(whats[2].starts_with("a probe failed: Connection refused"), "{whats:?}");
    // The list has none of it.
    let list = get(gateway.listen, "/dataservers").json();
    assert_eq!((list.get("frozen_reason"), list["dataservers"][0].get("events")), (None, None));
    assert_eq!(list["dataservers"][0]["state"], "suspect");
}

fn one_that_has_left_is_404_and_still_tells_why() {
    let gateway = Apiserver::start("registry: {ttl: 500ms, sweep_interval: 50ms}\n");
    let [nsqd, ..] = gateway.nsq.unwrap();
    let (silent, polite) = (Stub::ok(""), Stub::ok(""));
    gateway.heartbeat(&silent.addr().to_string());
    for state in ["up", "down"] {
        let seq = u8::from(state == "down");
        gateway.heartbeat(&format!(
            r#"{{"addr":"{}","id":"5e0c","seq":{seq},"state":"{state}"}}"#,
            polite.addr()
        ));
    }
    for (stub, kind, why) in [(&silent, "evicted", "evicted: silent for "), (&polite, "left", "left: ")] {
        let reply = eventually(kind, || {
            let reply = get(gateway.listen, &format!("/dataservers/{}", stub.addr()));
            (reply.status == 404 && reply.json().get("left_at").is_some()).then_some(reply)
        });
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        let told = reply.json();
        assert_eq!(told["title"], "Unknown dataserver");
        humantime::parse_rfc3339(told["left_at"].as_str().unwrap()).unwrap();
        let events = events(&told);
        let kinds: Vec<_> = events.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["joined", kind]);
        assert!(events[1].1.starts_with(why), "{events:?}");
        // The log has the same sentence.
        let logged = gateway.process.wait_for(kind, |line| line.contains(why).then(|| line.to_owned()));
        assert!(kind != "evicted" || logged.contains(&events[1].1), "{logged}");
    }
    let evicted = get(gateway.listen, &format!("/dataservers/{}", silent.addr())).json();
    assert!(events(&evicted)[1].1.ends_with(&format!(", last heard via {nsqd}")), "{evicted}");
    let never = get(gateway.listen, "/dataservers/127.0.0.1:1").json();
    assert_eq!((never.get("left_at"), never.get("events")), (None, None));
}

#[track_caller]
fn why_not_ready(gateway: &Apiserver) -> String {
    let reply = get(gateway.listen, "/readyz");
    assert_eq!((reply.status, &reply.json()["ready"]), (503, &false.into()));
    reply.json()["reason"].as_str().unwrap().to_owned()
}

fn readyz_says_no_until_somebody_is_live() {
    let gateway = Apiserver::start(PATIENT);
    assert_eq!(get(gateway.listen, "/healthz").status, 200);
    eventually("the link", || (why_not_ready(&gateway) == "starting: no heartbeat yet").then_some(()));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let reply = get(gateway.listen, "/readyz");
    assert_eq!((reply.status, &reply.json()["ready"]), (200, &true.into()));
}

fn readyz_tells_a_start_from_the_loss_of_everybody() {
    // Nobody listens there.
    let cut_off = Apiserver::start(&format!("common: {{nsqd: ['{}']}}\n", Stub::refusing()));
    assert_eq!(why_not_ready(&cut_off), "starting: no nsqd connected yet");
    // Whoever there is would have been heard within this time.
    let lonely = Apiserver::start("common: {heart_beat_time: 1}\n");
    eventually("the time", || (why_not_ready(&lonely) == "no live dataserver").then_some(()));
    let left =
        Apiserver::start("common: {heart_beat_time: 3600}\nregistry: {ttl: 500ms, sweep_interval: 50ms}\n");
    eventually("the link", || (why_not_ready(&left) == "starting: no heartbeat yet").then_some(()));
    let stub = Stub::ok("");
    left.announce(&[stub.addr()]);
    left.wait_for_live(&[]);
    assert_eq!(why_not_ready(&left), "no live dataserver");
}

/// They get requests, and their answers are better than a load balancer that has no gateway left.
fn readyz_says_yes_while_those_that_drain_are_all_there_is() {
    let gateway = Apiserver::start(PATIENT);
    let stub = Stub::ok("still here");
    gateway.announce(&[stub.addr()]);
    let say = |state| gateway.heartbeat(&format!(r#"{{"addr":"{}","state":"{state}"}}"#, stub.addr()));
    say("draining");
    let told = eventually("the state", || {
        let told = get(gateway.listen, "/readyz?verbose").json();
        (told["states"]["draining"] == 1).then_some(told)
    });
    assert_eq!(
        (&told["ready"], &told["dataservers"], &told["states"]["live"]),
        (&true.into(), &1.into(), &0.into())
    );
    assert_eq!(get(gateway.listen, "/").text(), "still here");
    say("down");
    eventually("the end", || (get(gateway.listen, "/readyz").status == 503).then_some(()));
    assert_eq!(why_not_ready(&gateway), "no live dataserver");
    assert_eq!(get(gateway.listen, "/").status, 503);
}

fn readyz_verbose_tells_what_there_is_to_know() {
    let gateway =
        Apiserver::start(&format!("{PATIENT}nsq: {{embedded: true}}\ncommon: {{nsqd: ['{}']}}\n", {
            Stub::refusing()
        }));
    let [nsqd, ..] = gateway.nsq.unwrap();
    let (live, draining) = (Stub::ok(""), Stub::ok(""));
    gateway.announce(&[live.addr()]);
    gateway.heartbeat(&format!(r#"{{"addr":"{}","state":"draining"}}"#, draining.addr()));
    let told = eventually("both", || {
        let told = get(gateway.listen, "/readyz?verbose").json();
        (told["states"]["draining"] == 1).then_some(told)
    });
    let states = serde_json::json!({"live": 1, "suspect": 0, "draining": 1, "ejected": 0});
    assert_eq!((&told["states"], &told["dataservers"]), (&states, &1.into()));
    assert_eq!((&told["frozen"], &told["frozen_reason"]), (&false.into(), &Value::Null));
    assert!(told["paused_seconds"].as_f64().is_some(), "{told}");
    assert_eq!((&told["nsqds"]["connected"], &told["nsqds"]["known"]), (&1.into(), &2.into()));
    let links = told["nsqds"]["links"].as_array().unwrap();
    assert_eq!(links.len(), 2);
    for link in links {
        assert_eq!(link["connected"], link["nsqd"] == nsqd.to_string(), "{link}");
        assert_eq!(link["channel_shared"], false, "{link}");
        assert!(link.get("clock_offset_seconds").is_some(), "{link}");
    }
    // Without being asked for, nothing of that is there.
    let told = get(gateway.listen, "/readyz").json();
    let keys: Vec<_> = told.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["dataservers", "nsqds", "ready", "reason"]);
    assert_eq!(told["nsqds"].get("links"), None);
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

/// Whichever field the proxy writes: one that writes the other passes on what a user says in this one.
fn behind_a_trusted_proxy_whoever_it_names_must_be_in_admin_allow() {
    let gateway = Apiserver::start("gateway: {trusted_proxies: [loopback]}\n");
    let (x_forwarded_for, forwarded) = ("X-Forwarded-For", "Forwarded");
    for (fields, status) in [
        (&[][..], 200),
        (&[(x_forwarded_for, "9.9.9.9")], 403),
        (&[(forwarded, "for=9.9.9.9")], 403),
        (&[(forwarded, "for=10.1.2.3"), (forwarded, "proto=http;For=\"[2001:db8::1]:4711\"")], 403),
        (&[(forwarded, "for=9.9.9.9, for=10.1.2.3:80;proto=http")], 200),
        (&[(forwarded, "for=unknown")], 403),
        (&[(x_forwarded_for, "10.1.2.3"), (forwarded, "for=9.9.9.9")], 403),
        (&[(x_forwarded_for, "9.9.9.9"), (forwarded, "for=10.1.2.3")], 403),
        (&[(x_forwarded_for, "10.1.2.3"), (forwarded, "for=10.1.2.3")], 200),
    ] {
        let close = [("Connection", "close")];
        let ask = request("GET /dataservers", &[&close, fields].concat(), b"");
        assert_eq!(exchange(gateway.listen, &ask).status, status, "{fields:?}");
    }
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
