//! Keys that change at run time, and what they do then.

use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Trial;

use super::{QUICK, start};
use crate::support::tls::{Pair, client, handshake, shown};
use crate::support::{
    Apiserver, EventStream, Reply, Stub, connect, eventually, exchange, get, pause, read_reply, request,
    trials, within,
};

/// Keys that hold as soon as the file is read again. The sections say who shows it.
#[rustfmt::skip]
pub const RELOADED: &[&str] = &[
    // The dataserver's own, which reads them when it starts; and what is shown of a start.
    "name", "common.server_addr", "timeouts.leave", "common.heart_beat_time",
    // another_nsqd_is_read_and_nobody_is_frozen_or_evicted, another_topic_…, choice::another_nsqlookupd_…
    "common.nsqd", "common.nsqlookupd", "common.server_topic", "nsq.channel", "nsq.lookup_interval",
    "nsq.connect_timeout", "nsq.reconnect_max", "nsq.silence_timeout",
    // another_key_is_asked_for
    "nsq.heartbeat_key_file", "nsq.clock_tolerance",
    // another_certificate_is_shown_and_none
    "gateway.tls.cert", "gateway.tls.key", "gateway.tls.check_interval",
    // who_may_read_the_admin_paths_changes_at_once
    "gateway.admin_allow", "limits.viewers",
    // who_is_trusted_changes_on_open_connections, choice::the_proxy_protocol_…
    "gateway.trusted_proxies", "gateway.proxy_protocol",
    // proxy::Settings, as a whole: another_timeout_holds_for_the_next_request_of_an_open_connection
    "gateway.request_id", "gateway.traceparent",
    // choice::another_balance_…, choice::another_retry_budget_…
    "gateway.balance", "gateway.upstream_protocol", "gateway.retry_budget.percent", "gateway.retry_budget.per_second",
    "timeouts.resolved", "timeouts.connect", "timeouts.response_head", "timeouts.expect_continue", "timeouts.idle_body",
    "timeouts.idle_tunnel", "timeouts.pool_idle", "timeouts.upstream_ping", "timeouts.unacknowledged",
    // server::Settings, as a whole: another_limit_holds_for_the_next_head_of_an_open_connection, open_http2
    "timeouts.request_head", "timeouts.linger", "timeouts.drain", "timeouts.drain_idle", "timeouts.lame_duck",
    "limits.head_bytes", "limits.headers", "limits.linger_bytes", "limits.body_buffer", "limits.cancelled_streams",
    "limits.pool", "limits.in_flight", "limits.h2c_connections",
    // fewer_connections_are_taken_and_nobody_loses_one
    "limits.connections",
    // a_shorter_ttl_…, whom_the_registry_takes_changes, dataservers_that_are_no_longer_allowed_leave
    "registry.ttl", "registry.sweep_interval", "registry.capacity", "registry.join_rate", "registry.trusted_joins",
    "registry.allow", "registry.snapshot", "registry.snapshot_interval",
    // choice::a_probe_…, choice::other_failures_…
    "registry.probe.path", "registry.probe.interval", "registry.probe.timeout", "registry.probe.parallel",
    "registry.probe.give_up", "registry.probe.hold",
    "registry.ejection.failures", "registry.ejection.duration", "registry.ejection.max_duration",
    "registry.ejection.percent", "registry.ejection.answered_5xx",
    // another_log_filter_holds_at_once
    "log.filter",
    // a_line_of_the_access_log_looks_otherwise
    "log.access.format", "log.access.query", "log.access.one_in", "log.access.field_bytes",
    // sighup_reads_the_file_though_it_has_not_changed
    "reload.check_interval",
];

pub fn trials() -> Vec<Trial> {
    trials![
        a_shorter_ttl_evicts_whom_it_should_and_a_longer_one_brings_nobody_back,
        whom_the_registry_takes_changes,
        dataservers_that_are_no_longer_allowed_leave,
        the_snapshot_moves,
        another_timeout_holds_for_the_next_request_of_an_open_connection,
        another_limit_holds_for_the_next_head_of_an_open_connection,
        fewer_connections_are_taken_and_nobody_loses_one,
        fewer_requests_are_taken_at_once,
        who_is_trusted_changes_on_open_connections,
        who_may_read_the_admin_paths_changes_at_once,
        whoever_watches_the_page_is_sent_away_when_others_may_read_it,
        another_certificate_is_shown_and_none,
        another_nsqd_is_read_and_nobody_is_frozen_or_evicted,
        another_topic_is_read_and_nobody_is_frozen_or_evicted,
        without_any_nsqd_a_config_is_not_taken,
        another_key_is_asked_for,
        another_log_filter_holds_at_once,
        a_line_of_the_access_log_looks_otherwise,
    ]
}

/// One after the other on one connection.
pub struct Kept(BufReader<TcpStream>);

impl Kept {
    pub fn to(gateway: &Apiserver) -> Self {
        Self(BufReader::new(connect(gateway.listen)))
    }

    #[track_caller]
    pub fn ask(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.0.get_mut().write_all(&request(&format!("GET {path}"), fields, b"")).unwrap();
        read_reply(&mut self.0, false).expect("no answer")
    }
}

fn a_shorter_ttl_evicts_whom_it_should_and_a_longer_one_brings_nobody_back() {
    let gateway = start("registry: {ttl: 1h}\n");
    let (silent, heard) = (Stub::ok(""), [Stub::ok(""), Stub::ok("")]);
    gateway.announce(&[silent.addr(), heard[0].addr(), heard[1].addr()]);
    let expected = heard.each_ref().map(|stub| stub.addr().to_string());
    pause(Duration::from_millis(1_100));
    for stub in &heard {
        gateway.heartbeat(&stub.addr().to_string());
    }
    eventually("their heartbeats", || {
        (gateway.metric("gateway_heartbeats_total{result=\"refreshed\"}") >= 2.0).then_some(())
    });
    gateway.change_to("registry: {ttl: 1s, sweep_interval: 50ms}\n");
    eventually("the eviction", || (!gateway.live().contains(&silent.addr().to_string())).then_some(()));
    gateway.change_to("registry: {ttl: 1h}\n");
    let gone = get(gateway.listen, &format!("/dataservers/{}", silent.addr())).json();
    let last = gone["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["kind"], "evicted", "{gone}");
    assert!(gateway.metric("gateway_evictions_total{reason=\"expired\"}") >= 1.0);
    // They may have fallen silent for a second meanwhile, on a machine that is busy.
    for stub in &heard {
        gateway.heartbeat(&stub.addr().to_string());
    }
    gateway.wait_for_live(&[&expected[0], &expected[1]]);
}

fn whom_the_registry_takes_changes() {
    let gateway = start("registry: {ttl: 1h, capacity: 1}\n");
    let stubs = [Stub::ok(""), Stub::ok(""), Stub::ok("")];
    gateway.announce(&[stubs[0].addr()]);
    let result = |result: &str| gateway.metric(&format!("gateway_heartbeats_total{{result=\"{result}\"}}"));
    gateway.heartbeat(&stubs[1].addr().to_string());
    eventually("the refusal", || (result("full") == 1.0).then_some(()));
    gateway.change_to("registry: {ttl: 1h, capacity: 2, trusted_joins: 0, probe: {path: /health}}\n");
    gateway.heartbeat(&stubs[1].addr().to_string());
    eventually("the probe of who joins", || {
        stubs[1].requests().iter().any(|asked| asked.first.contains("/health")).then_some(())
    });
    gateway.change_to("registry: {ttl: 1h, capacity: 1}\n");
    gateway.heartbeat(&stubs[2].addr().to_string());
    eventually("the refusal", || (result("full") == 2.0).then_some(()));
    assert_eq!(gateway.live().len(), 2, "whoever is in the set stays");
}

fn dataservers_that_are_no_longer_allowed_leave() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").status, 200);
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/", &[]).status, 200);
    gateway.change_to("registry: {ttl: 1h, allow: [10.0.0.0/8]}\n");
    gateway.wait_for_live(&[]);
    assert_eq!(kept.ask("/", &[]).status, 503);
    assert_eq!(gateway.metric("gateway_evictions_total{reason=\"not_allowed\"}"), 1.0);
    gateway.heartbeat(&stub.addr().to_string());
    eventually("the refusal", || {
        (gateway.metric("gateway_heartbeats_total{result=\"refused_not_allowed\"}") == 1.0).then_some(())
    });
    gateway.change_to("registry: {ttl: 1h}\n");
    gateway.announce(&[stub.addr()]);
    assert_eq!(kept.ask("/", &[]).status, 200);
}

fn the_snapshot_moves() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    for name in ["one", "two"] {
        let file = gateway.config.with_file_name(name);
        gateway.change_to(&format!(
            "registry: {{ttl: 1h, snapshot: '{}', snapshot_interval: 100ms}}\n",
            file.display()
        ));
        eventually("the snapshot", || {
            fs::read_to_string(&file).ok()?.contains(&stub.addr().to_string()).then_some(())
        });
    }
}

fn another_timeout_holds_for_the_next_request_of_an_open_connection() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::answering(|asked| {
        if asked.first.contains("/slow") {
            pause(Duration::from_secs(2));
        }
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    gateway.announce(&[stub.addr()]);
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/", &[]).status, 200);
    gateway.change_to("registry: {ttl: 1h}\ntimeouts: {response_head: 100ms}\n");
    assert_eq!(kept.ask("/slow", &[]).status, 504);
    gateway.change_to("registry: {ttl: 1h}\n");
    assert_eq!(kept.ask("/slow", &[]).status, 200);
}

fn another_limit_holds_for_the_next_head_of_an_open_connection() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::answering(|asked| {
        let many = if asked.first.contains("/many") { "x: 1\r\n".repeat(50) } else { String::new() };
        format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n").into_bytes()
    });
    gateway.announce(&[stub.addr()]);
    let many = [("x", "1"); 50];
    let mut kept = [Kept::to(&gateway), Kept::to(&gateway)];
    for kept in &mut kept {
        assert_eq!(kept.ask("/many", &many).status, 200);
    }
    gateway.change_to("registry: {ttl: 1h}\nlimits: {headers: 20}\ntimeouts: {request_head: 200ms}\n");
    let [mut one, mut two] = kept;
    assert_eq!(one.ask("/many", &[]).status, 502, "the dataserver's, on a kept connection to it");
    assert_eq!(two.ask("/", &many).status, 431);
    // And how long one may be idle.
    one.0.get_mut().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(crate::support::ends(&mut one.0));
}

fn fewer_connections_are_taken_and_nobody_loses_one() {
    let admin = "gateway: {admin_listen: '127.0.0.1:0', workers: 1}\nregistry: {ttl: 1h}\n";
    let gateway = start(&format!("{admin}limits: {{connections: 3}}\n"));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let mut kept: Vec<_> = (0..3).map(|_| Kept::to(&gateway)).collect();
    for kept in &mut kept {
        assert_eq!(kept.ask("/", &[]).status, 200);
    }
    gateway.change_to(&format!("{admin}limits: {{connections: 1}}\n"));
    for kept in &mut kept {
        assert_eq!(kept.ask("/", &[]).status, 200, "nobody loses a connection");
    }
    kept.truncate(1);
    let open = || gateway.metric("gateway_connections{protocol=\"http1\"}");
    eventually("two to end", || (open() == 1.0).then_some(()));
    let mut waiting = connect(gateway.listen);
    waiting.write_all(&request("GET /", &[], b"")).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(read_reply(&mut BufReader::new(waiting.try_clone().unwrap()), false).is_none(), "over the limit");
    assert_eq!(kept[0].ask("/", &[]).status, 200);
    gateway.change_to(&format!("{admin}limits: {{connections: 5}}\n"));
    waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(read_reply(&mut BufReader::new(waiting), false).unwrap().status, 200);
}

fn fewer_requests_are_taken_at_once() {
    let config = "gateway: {workers: 1}\nregistry: {ttl: 1h}\n";
    let gateway = start(config);
    let stub = Stub::answering(|asked| {
        if asked.first.contains("/slow") {
            pause(Duration::from_secs(3));
        }
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()
    });
    gateway.announce(&[stub.addr()]);
    gateway.change_to(&format!("{config}limits: {{in_flight: 1}}\n"));
    let mut slow = connect(gateway.listen);
    slow.write_all(&request("GET /slow", &[], b"")).unwrap();
    eventually("the slow one", || (stub.requests().len() + stub.connections() > 0).then_some(()));
    eventually("a refusal", || (get(gateway.listen, "/").status == 503).then_some(()));
    gateway.change_to(config);
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert_eq!(read_reply(&mut BufReader::new(slow), false).unwrap().status, 200);
}

fn who_is_trusted_changes_on_open_connections() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let mut kept = Kept::to(&gateway);
    let mut heard = || {
        assert_eq!(kept.ask("/", &[("x-forwarded-for", "9.9.9.9")]).status, 200);
        stub.requests().last().unwrap().header("x-forwarded-for").join(", ")
    };
    assert_eq!(heard(), "127.0.0.1");
    gateway.change_to("registry: {ttl: 1h}\ngateway: {trusted_proxies: [loopback]}\n");
    assert_eq!(heard(), "9.9.9.9, 127.0.0.1");
    gateway.change_to("registry: {ttl: 1h}\n");
    assert_eq!(heard(), "127.0.0.1");
}

fn who_may_read_the_admin_paths_changes_at_once() {
    let gateway = start("");
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/readyz?verbose", &[]).status, 503);
    gateway.write_config(&format!("{QUICK}gateway: {{admin_allow: [10.0.0.0/8]}}\n"));
    eventually("the refusal", || (get(gateway.listen, "/healthz").status == 403).then_some(()));
    assert_eq!(kept.ask("/metrics", &[]).status, 403);
    gateway.write_config(QUICK);
    eventually("the answer", || (get(gateway.listen, "/healthz").status == 200).then_some(()));
    assert_eq!(kept.ask("/metrics", &[]).status, 200);
}

fn whoever_watches_the_page_is_sent_away_when_others_may_read_it() {
    let gateway = start("");
    let mut page = EventStream::open(gateway.listen, "/dataservers");
    assert!(page.next().is_some());
    gateway.write_config(&format!("{QUICK}gateway: {{admin_allow: [10.0.0.0/8]}}\n"));
    within(Duration::from_secs(20), "the end of the stream", || page.next().is_none().then_some(()));
    gateway.write_config(&format!("{QUICK}gateway: {{admin_allow: [loopback]}}\n"));
    eventually("the answer", || (get(gateway.listen, "/healthz").status == 200).then_some(()));
    let mut page = EventStream::open(gateway.listen, "/dataservers");
    gateway.change_to("gateway: {admin_allow: [loopback]}\nregistry: {ttl: 1h}\n");
    // Another change sends nobody away.
    page.wait_for("another TTL", |_, data| (data["set"]["ttl"] == 3_600_000).then_some(()));
}

fn another_certificate_is_shown_and_none() {
    let (dir, pairs) = (tempfile::tempdir().unwrap(), [Pair::new(), Pair::new()]);
    let config = |n: usize| {
        let place = dir.path().join(n.to_string());
        format!(
            "gateway: {{admin_listen: '127.0.0.1:0', tls: {{cert: '{0}/cert.pem', key: '{0}/key.pem', check_interval: 20ms}}}}\n",
            place.display()
        )
    };
    for (n, pair) in pairs.iter().enumerate() {
        fs::create_dir(dir.path().join(n.to_string())).unwrap();
        pair.write(&dir.path().join(n.to_string()));
    }
    let gateway = start(&config(0));
    let hello = client(&[&tokio_rustls::rustls::version::TLS13], &[]);
    let shows = |pair: &Pair| {
        let stream = handshake(gateway.listen, &hello).ok()?;
        (shown(&stream) == pair.der).then_some(())
    };
    eventually("the first", || shows(&pairs[0]));
    let mut open = handshake(gateway.listen, &hello).unwrap();
    gateway.change_to(&config(1));
    eventually("the second", || shows(&pairs[1]));
    // Its files are looked after like those of the first.
    pairs[0].write(&dir.path().join("1"));
    eventually("the first, in the place of the second", || shows(&pairs[0]));
    gateway.change_to("gateway: {admin_listen: '127.0.0.1:0'}\n");
    assert_eq!(get(gateway.listen, "/").status, 503, "in the clear");
    open.write_all(&request("GET /", &[], b"")).unwrap();
    assert_eq!(read_reply(&mut BufReader::new(open), false).unwrap().status, 503, "it goes on as it began");
    gateway.change_to(&config(0));
    eventually("the first again", || shows(&pairs[0]));
}

/// Gateways whose embedded NSQ another one reads.
fn brokers() -> [Apiserver; 2] {
    [(); 2].map(|()| Apiserver::start("registry: {capacity: 1}\n"))
}

/// What must not have happened.
#[track_caller]
fn assert_calm(gateway: &Apiserver) {
    let output = gateway.process.output();
    assert!(!output.contains("the live set is frozen"), "{output}");
    for reason in ["expired", "probe_failed", "not_allowed"] {
        let series = format!("gateway_evictions_total{{reason=\"{reason}\"}}");
        assert_eq!(gateway.metric(&series), 0.0, "{reason}");
    }
}

fn another_nsqd_is_read_and_nobody_is_frozen_or_evicted() {
    let brokers = brokers();
    let [one, two] = brokers.each_ref().map(|broker| broker.nsq.unwrap()[0]);
    let config = |nsqd| format!("registry: {{ttl: 1h}}\ncommon: {{nsqd: ['{nsqd}']}}\n");
    let gateway = start(&config(one));
    let stubs = [Stub::ok(""), Stub::ok("")];
    let connected = |nsqd| {
        eventually("the link", || {
            (gateway.metric(&format!("gateway_nsqd_connected{{nsqd=\"{nsqd}\"}}")) == 1.0).then_some(())
        });
    };
    connected(one);
    let [first, second] = stubs.each_ref().map(|stub| stub.addr().to_string());
    brokers[0].heartbeat(&first);
    gateway.wait_for_live(&[&first]);
    gateway.change_to(&config(two));
    connected(two);
    brokers[1].heartbeat(&second);
    gateway.wait_for_live(&[&first, &second]);
    gateway.process.wait_for("the end of the old link", |line| {
        line.contains("this link to an nsqd has been replaced").then_some(())
    });
    assert_calm(&gateway);
    // The first is not read any more: nor is it known.
    let links = get(gateway.listen, "/readyz?verbose").json()["nsqds"]["links"].clone();
    eventually("one link", || {
        let links = get(gateway.listen, "/readyz?verbose").json()["nsqds"]["links"].clone();
        (links.as_array()?.len() == 1).then_some(())
    });
    assert!(links.to_string().contains(&two.to_string()));
    // To one that is nowhere: the old one is read until it is clear that nobody comes, and then the set is frozen.
    gateway.change_to(&format!(
        "registry: {{ttl: 1h}}\ncommon: {{nsqd: ['{}']}}\nnsq: {{connect_timeout: 100ms}}\n",
        Stub::refusing()
    ));
    eventually("the freeze", || (gateway.metric("gateway_registry_frozen") == 1.0).then_some(()));
    assert_eq!(gateway.live().len(), 2);
}

fn another_topic_is_read_and_nobody_is_frozen_or_evicted() {
    let brokers = brokers();
    let [nsqd, http, _] = brokers[0].nsq.unwrap();
    let config = |more: &str| format!("registry: {{ttl: 1h}}\ncommon: {{nsqd: ['{nsqd}']{more}}}\n");
    let gateway = start(&config(""));
    let stub = Stub::ok("");
    let (dead, alive) = (Stub::refusing().to_string(), stub.addr().to_string());
    let publish = |topic: &str, body: &str| {
        let reply = crate::support::post(http, &format!("/pub?topic={topic}"), body.as_bytes());
        assert_eq!(reply.status, 200);
    };
    eventually("the link", || {
        (gateway.metric(&format!("gateway_nsqd_connected{{nsqd=\"{nsqd}\"}}")) == 1.0).then_some(())
    });
    publish("data_server_addr", &dead);
    gateway.wait_for_live(&[&dead]);
    for (n, more) in
        [", server_topic: other", ", server_topic: other}\nnsq: {channel: ch1"].iter().enumerate()
    {
        gateway.change_to(&config(more));
        eventually("the new link", || {
            (gateway.process.count("this link to an nsqd has been replaced") == n + 1).then_some(())
        });
    }
    publish("other", &alive);
    gateway.wait_for_live(&[dead.as_str(), alive.as_str()]);
    assert_calm(&gateway);
    let heard = || gateway.metric("gateway_heartbeats_total{result=\"refreshed\"}");
    let before = heard();
    publish("data_server_addr", &alive);
    publish("other", &alive);
    eventually("one of the two", || (heard() == before + 1.0).then_some(()));
}

fn without_any_nsqd_a_config_is_not_taken() {
    let brokers = brokers();
    let nsqd = brokers[0].nsq.unwrap()[0];
    let gateway = start(&format!("common: {{nsqd: ['{nsqd}']}}\n"));
    gateway.write_config(QUICK);
    eventually("the fault", || (gateway.reloads("rejected") == 1.0).then_some(()));
    let reload = get(gateway.listen, "/readyz?verbose").json()["config_reload"].clone();
    assert_eq!(reload["faults"][0]["key"], "nsq.embedded", "{reload}");
    // Where one runs inside, it goes on, and is read.
    let gateway = start("registry: {ttl: 1h}\n");
    gateway.change_to(&format!("registry: {{ttl: 1h}}\ncommon: {{nsqd: ['{nsqd}']}}\n"));
    let reload = get(gateway.listen, "/readyz?verbose").json()["config_reload"].clone();
    assert_eq!(reload["waiting_for_restart"], serde_json::json!(["nsq.embedded"]));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
}

fn another_key_is_asked_for() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::ok("");
    let key = gateway.config.with_file_name("key");
    fs::write(&key, "0123456789abcdef").unwrap();
    gateway.change_to(&format!("registry: {{ttl: 1h}}\nnsq: {{heartbeat_key_file: '{}'}}\n", key.display()));
    let refused = |reason: &str| gateway.metric(&format!("gateway_heartbeats_total{{result=\"{reason}\"}}"));
    gateway.heartbeat(&stub.addr().to_string());
    eventually("the refusal", || (refused("refused_unsigned") == 1.0).then_some(()));
    // What the file holds matters, not only where it is; and it is never shown.
    let before = gateway.reloads("applied");
    fs::write(&key, "fedcba9876543210").unwrap();
    eventually("the new key", || (gateway.reloads("applied") > before).then_some(()));
    gateway.process.wait_for("the word", |line| {
        line.contains("nsq.heartbeat_key_file: the old content of its file → the new content of its file")
            .then_some(())
    });
    assert!(!gateway.process.output().contains("fedcba"));
    fs::write(&key, "short").unwrap();
    eventually("the fault", || (gateway.reloads("rejected") == 1.0).then_some(()));
    gateway.heartbeat(&stub.addr().to_string());
    eventually("the refusal", || (refused("refused_unsigned") == 2.0).then_some(()));
    gateway.change_to("registry: {ttl: 1h}\n");
    gateway.announce(&[stub.addr()]);
}

fn another_log_filter_holds_at_once() {
    let gateway = start("registry: {ttl: 1h}\n");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let refused = || {
        exchange(gateway.listen, b"NONSENSE\r\n\r\n");
    };
    refused();
    gateway.change_to("registry: {ttl: 1h}\nlog: {filter: debug}\n");
    refused();
    gateway
        .process
        .wait_for("a debug line", |line| line.contains("refused what is no request").then_some(()));
    assert_eq!(gateway.process.count("refused what is no request"), 1);
    gateway.change_to("registry: {ttl: 1h}\nlog: {filter: warn}\n");
    refused();
    let before = gateway.process.count("the config was read again");
    gateway.change_to("registry: {ttl: 30m}\nlog: {filter: warn}\n");
    assert_eq!(gateway.process.count("the config was read again"), before);
    assert_eq!(gateway.process.count("refused what is no request"), 1);
}

fn a_line_of_the_access_log_looks_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let config =
        |more| format!("registry: {{ttl: 1h}}\nlog: {{access: {{to: '{}', {more}}}}}\n", file.display());
    let gateway = start(&config("format: '{path}'"));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/a?b", &[]).status, 200);
    gateway.change_to(&config("format: '{status} {path}', query: true"));
    assert_eq!(kept.ask("/a?b", &[]).status, 200);
    // Of a hundred that went well, one in a million has a line; which is none, nearly always.
    gateway.change_to(&config("one_in: 1000000, format: 'seldom {method}'"));
    for _ in 0..100 {
        assert_eq!(kept.ask("/", &[]).status, 200);
    }
    gateway.change_to(&config("format: '{method}'"));
    assert_eq!(kept.ask("/", &[]).status, 200);
    let lines = || fs::read_to_string(&file).unwrap();
    eventually("the last line", || lines().ends_with("GET\n").then_some(()));
    assert_eq!(lines().replace("seldom GET\n", ""), "/a\n200 /a?b\nGET\n");
    assert!(lines().matches("seldom").count() < 5);
    // Whoever rotates logs may say so.
    fs::rename(&file, dir.path().join("old")).unwrap();
    gateway.process.signal("HUP");
    eventually("another file", || file.exists().then_some(()));
}
