//! Heartbeats through a cluster: the same tests on real nsqds and on embedded ones.

mod clocks;

use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, Broker, Cluster, DataserverProcess, IDENTIFIED, Stub, eventually, frame, get, pause, tools,
    trial_with, trials, within,
};

/// What is tried on each kind of NSQ.
type Test = fn(Broker);

pub fn trials() -> Vec<Trial> {
    let tests: Vec<(&str, Test)> = vec![
        ("every_live_dataserver_answers", every_live_dataserver_answers),
        ("a_stopped_dataserver_is_evicted_and_gets_no_request", a_stopped_dataserver_is_evicted),
        ("an_nsqd_killed_and_restarted_is_connected_again_within_5_s", an_nsqd_killed_and_restarted),
        ("an_nsqd_that_is_stopped_is_noticed", an_nsqd_that_is_stopped_is_noticed),
        ("nsqds_are_found_through_lookup_alone", nsqds_are_found_through_lookup_alone),
        ("faults_16_one_of_two_nsqds_dies_and_nobody_is_evicted", one_of_two_nsqds_dies),
        ("faults_17_old_heartbeats_revive_nobody", old_heartbeats_revive_nobody),
        ("faults_18_hostile_heartbeats_are_refused_counted_and_finished", hostile_heartbeats),
        ("faults_34_two_gateways_hold_the_same_set", two_gateways_hold_the_same_set),
        ("gateways_on_a_shared_channel_share_its_messages", gateways_on_a_shared_channel),
        ("a_channel_that_is_shared_by_mistake_is_told", a_shared_channel_is_told),
        ("an_nsqd_of_two_names_is_not_a_shared_channel", an_nsqd_of_two_names),
        ("a_gateway_leaves_without_a_trace", a_gateway_leaves_without_a_trace),
    ];
    let mut trials = Vec::new();
    for (name, test) in tests {
        let real = format!("cluster::real::{name}");
        trials.push(trial_with(&real, &tools::NSQD, move || test(Broker::Real)));
        let embedded = format!("cluster::embedded::{name}");
        trials.push(trial_with(&embedded, &Ok(()), move || test(Broker::Embedded)));
    }
    trials.extend(clocks::trials());
    trials.extend(trials![
        faults_20_an_nsqd_that_sends_hostile_frames_is_backed_off_from_and_costs_nothing,
        a_lookup_that_is_none_is_said_so,
    ]);
    // An embedded NSQ keeps 10,000 messages of a channel.
    let name = "cluster::real::faults_17_a_backlog_is_drained_in_seconds";
    trials.push(trial_with(name, &tools::NSQD, a_backlog_is_drained_in_seconds));
    // An embedded lookup knows its own nsqd and no other.
    let name = "cluster::real::an_nsqd_started_later_is_found";
    trials.push(trial_with(name, &tools::NSQD, an_nsqd_started_later_is_found));
    trials
}

/// Timings that a test can wait for.
const QUICK: &str =
    "registry: {ttl: 2500ms, sweep_interval: 200ms}\nnsq: {lookup_interval: 300ms, silence_timeout: 2s}\n";

fn addrs(dataservers: &[DataserverProcess]) -> Vec<&str> {
    dataservers.iter().map(|dataserver| dataserver.addr.as_str()).collect()
}

fn start_dataservers(count: usize, config: &str) -> Vec<DataserverProcess> {
    (0..count).map(|_| DataserverProcess::start(config)).collect()
}

/// Who answers, of some requests.
fn answering(gateway: &Apiserver, requests: usize) -> Vec<String> {
    let answers = (0..requests).map(|_| {
        let reply = get(gateway.listen, "/");
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["dataserver"].as_str().unwrap().to_owned()
    });
    let mut answers: Vec<_> = answers.collect();
    answers.sort();
    answers.dedup();
    answers
}

fn connected(gateway: &Apiserver, cluster: &Cluster, nsqd: usize) -> bool {
    gateway.metric(&format!("gateway_nsqd_connected{{nsqd=\"{}\"}}", cluster.nsqds[nsqd].tcp)) > 0.0
}

fn every_live_dataserver_answers(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let gateway = Apiserver::start(&cluster.config(true, QUICK));
    let dataservers = start_dataservers(3, &cluster.config(false, ""));
    gateway.wait_for_live(&addrs(&dataservers));
    let mut wanted = addrs(&dataservers);
    wanted.sort_unstable();
    eventually("every one to answer", || (answering(&gateway, 60) == wanted).then_some(()));
    // It stays so: heartbeats go to a random one of two nsqds, and each gateway reads both.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert_eq!(gateway.live(), wanted);
        pause(Duration::from_millis(100));
    }
}

fn a_stopped_dataserver_is_evicted(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let gateway = Apiserver::start(&cluster.config(true, QUICK));
    let mut dataservers = start_dataservers(3, &cluster.config(false, ""));
    gateway.wait_for_live(&addrs(&dataservers));
    let stopped = dataservers.pop().unwrap();
    let stopped_addr = stopped.addr.clone();
    drop(stopped);
    // Nobody's request fails meanwhile: the address refuses, and another one is asked.
    within(Duration::from_secs(6), "the eviction", || {
        answering(&gateway, 5);
        (!gateway.live().contains(&stopped_addr)).then_some(())
    });
    assert!(!answering(&gateway, 60).contains(&stopped_addr));
    eventually("the count", || {
        (gateway.metric("gateway_evictions_total{reason=\"expired\"}") > 0.0).then_some(())
    });
}

fn an_nsqd_killed_and_restarted(broker: Broker) {
    let mut cluster = Cluster::start(broker, 1);
    let gateway = Apiserver::start(&cluster.config(true, QUICK));
    eventually("the link", || connected(&gateway, &cluster, 0).then_some(()));
    for _ in 0..2 {
        cluster.nsqds[0].kill();
        within(Duration::from_secs(3), "the loss to be noticed", || {
            (!connected(&gateway, &cluster, 0)).then_some(())
        });
        pause(Duration::from_secs(3));
        cluster.nsqds[0].run();
        within(Duration::from_secs(5), "the link again", || connected(&gateway, &cluster, 0).then_some(()));
    }
    let stub = Stub::ok("");
    cluster.nsqds[0].publish(stub.addr().to_string().as_bytes());
    gateway.wait_for_live(&[&stub.addr().to_string()]);
    // A line for each change, not for each try.
    assert_eq!(gateway.process.count("no longer read from this nsqd"), 2, "{}", gateway.process.output());
}

/// SIGSTOP: no FIN, no RST, and the kernel goes on accepting connections.
fn an_nsqd_that_is_stopped_is_noticed(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let gateway = Apiserver::start(&cluster.config(false, QUICK));
    eventually("the link", || connected(&gateway, &cluster, 0).then_some(()));
    cluster.nsqds[0].signal("STOP");
    within(Duration::from_secs(6), "the silence to be noticed", || {
        (!connected(&gateway, &cluster, 0)).then_some(())
    });
    cluster.nsqds[0].signal("CONT");
    within(Duration::from_secs(8), "the link again", || connected(&gateway, &cluster, 0).then_some(()));
    let stub = Stub::ok("");
    cluster.nsqds[0].publish(stub.addr().to_string().as_bytes());
    gateway.wait_for_live(&[&stub.addr().to_string()]);
}

fn nsqds_are_found_through_lookup_alone(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let gateway = Apiserver::start(&cluster.lookup_config(QUICK));
    let dataservers = start_dataservers(2, &cluster.lookup_config(""));
    gateway.wait_for_live(&addrs(&dataservers));
    eventually("both links", || {
        (connected(&gateway, &cluster, 0) && connected(&gateway, &cluster, 1)).then_some(())
    });
}

fn an_nsqd_started_later_is_found() {
    let mut cluster = Cluster::start(Broker::Real, 2);
    let gateway = Apiserver::start(&cluster.lookup_config(QUICK));
    cluster.add_nsqd();
    let stub = Stub::ok("third");
    cluster.nsqds[2].publish(stub.addr().to_string().as_bytes());
    eventually("the third link", || connected(&gateway, &cluster, 2).then_some(()));
    cluster.nsqds[2].publish(stub.addr().to_string().as_bytes());
    gateway.wait_for_live(&[&stub.addr().to_string()]);
    // One that has left is forgotten.
    cluster.nsqds[2].kill();
    let left = format!("gateway_nsqd_connected{{nsqd=\"{}\"}}", cluster.nsqds[2].tcp);
    eventually("the third to be gone", || (gateway.metric(&left) < 1.0).then_some(()));
    gateway.process.wait_for("departure", |line| line.contains("this nsqd has left").then_some(()));
}

fn one_of_two_nsqds_dies(broker: Broker) {
    let mut cluster = Cluster::start(broker, 2);
    let gateway = Apiserver::start(&cluster.config(true, QUICK));
    let dataservers = start_dataservers(3, &cluster.config(false, ""));
    gateway.wait_for_live(&addrs(&dataservers));
    cluster.nsqds[0].kill();
    let mut wanted = addrs(&dataservers);
    wanted.sort_unstable();
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_eq!(gateway.live(), wanted);
        pause(Duration::from_millis(100));
    }
    assert!(gateway.metric("gateway_evictions_total{reason=\"expired\"}") < 1.0);
}

/// A durable channel keeps messages while nobody reads it: a gateway that starts is handed the past.
fn old_heartbeats_revive_nobody(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    cluster.nsqds[0].post("/topic/create?topic=data_server_addr", b"");
    cluster.nsqds[0].post("/channel/create?topic=data_server_addr&channel=past", b"");
    for n in 0..500 {
        cluster.nsqds[0].publish(format!("127.0.0.1:{}", 20_000 + n).as_bytes());
    }
    pause(Duration::from_millis(2600));
    let gateway = Apiserver::start(&cluster.config(true, &QUICK.replace("nsq: {", "nsq: {channel: past, ")));
    eventually("the backlog to be read", || {
        (gateway.metric("gateway_heartbeats_total{result=\"stale\"}") >= 500.0).then_some(())
    });
    assert!(gateway.metric("gateway_dataserver_joins_total") < 1.0);
    assert_eq!(get(gateway.listen, "/").status, 503);
}

fn a_backlog_is_drained_in_seconds() {
    const BACKLOG: u16 = 20_000;
    let cluster = Cluster::start(Broker::Real, 1);
    let nsqd = &cluster.nsqds[0];
    nsqd.post("/topic/create?topic=data_server_addr", b"");
    nsqd.post("/channel/create?topic=data_server_addr&channel=past", b"");
    // Somebody still listens at an address that is not announced any more.
    let dead = Stub::ok("dead");
    let heartbeats: Vec<_> = (0..BACKLOG)
        .map(|n| match n % 100 {
            0 => dead.addr().to_string(),
            _ => format!("127.0.0.2:{}", 40_000 + n),
        })
        .collect();
    for batch in heartbeats.chunks(5_000) {
        nsqd.post("/mpub?topic=data_server_addr", batch.join("\n").as_bytes());
    }
    pause(Duration::from_millis(2600));
    let dataservers = start_dataservers(2, &cluster.config(false, ""));
    let mut live = addrs(&dataservers);
    live.sort_unstable();
    let gateway = Apiserver::start(&cluster.config(true, &QUICK.replace("nsq: {", "nsq: {channel: past, ")));
    let channel = || {
        let stats = get(nsqd.http, "/stats?format=json&topic=data_server_addr&channel=past").json();
        stats["topics"][0]["channels"][0].clone()
    };
    within(Duration::from_secs(10), "the live ones", || (gateway.live() == live).then_some(()));
    within(Duration::from_secs(10), "all to be finished", || {
        let channel = channel();
        ["depth", "in_flight_count", "deferred_count"].iter().all(|count| channel[count] == 0).then_some(())
    });
    assert!(!answering(&gateway, 60).contains(&"dead".to_owned()));
    assert_eq!(dead.connections(), 0);
    assert!(gateway.metric("gateway_dataserver_joins_total") < 2.1);
    assert!(gateway.metric("gateway_heartbeats_total{result=\"stale\"}") >= f64::from(BACKLOG));
    let channel = channel();
    assert_eq!((&channel["requeue_count"], &channel["timeout_count"]), (&0.into(), &0.into()));
}

fn hostile_heartbeats(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let gateway =
        Apiserver::start(&cluster.config(false, "nsq: {channel: hostile}\nregistry: {allow: [loopback]}\n"));
    eventually("the link", || connected(&gateway, &cluster, 0).then_some(()));
    let own = gateway.listen.to_string();
    let huge = "x".repeat(1_000_000);
    let hostile: &[(&[u8], &str)] = &[
        (b"\0", "refused_addr_characters"),
        (huge.as_bytes(), "refused_too_large"),
        (b"\xff\xfe", "refused_not_utf8"),
        (b"{\"addr\":", "refused_bad_json"),
        (b"0.0.0.0:0", "refused_addr_port"),
        (b"0.0.0.0:80", "refused_addr_forbidden"),
        (b"169.254.169.254:80", "refused_addr_forbidden"),
        (b"a@b:80", "refused_addr_characters"),
        (b"127.0.0.1:10001\r\nx: y", "refused_addr_characters"),
        (b":10001", "refused_addr_host"),
        (own.as_bytes(), "refused_own_listener"),
        (b"192.0.2.1:80", "refused_not_allowed"),
    ];
    for (body, _) in hostile {
        cluster.nsqds[0].publish(body);
    }
    let mut expected = std::collections::BTreeMap::new();
    for (_, result) in hostile {
        *expected.entry(*result).or_insert(0.0) += 1.0;
    }
    for (result, count) in expected {
        let series = format!("gateway_heartbeats_total{{result=\"{result}\"}}");
        eventually(&format!("{count} {result}"), || {
            ((gateway.metric(&series) - count).abs() < 0.1).then_some(())
        });
    }
    assert_eq!(gateway.live(), Vec::<String>::new());
    eventually("every message to be finished", || {
        let stats = get(cluster.nsqds[0].http, "/stats?format=json&topic=data_server_addr").json();
        let channel = &stats["topics"][0]["channels"][0];
        let open = ["depth", "in_flight_count", "deferred_count", "requeue_count", "timeout_count"];
        open.iter().all(|count| channel[count] == 0).then_some(())
    });
}

fn two_gateways_hold_the_same_set(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    let gateways =
        [Apiserver::start(&cluster.config(true, QUICK)), Apiserver::start(&cluster.config(true, QUICK))];
    let dataservers = start_dataservers(3, &cluster.config(false, ""));
    for gateway in &gateways {
        gateway.wait_for_live(&addrs(&dataservers));
    }
    let until = SystemTime::now() + Duration::from_secs(4);
    while SystemTime::now() < until {
        assert_eq!(gateways[0].live(), gateways[1].live());
        assert_eq!(gateways[0].live().len(), 3);
        pause(Duration::from_millis(100));
    }
}

/// The seed's way: `ch1` for everybody. Each gateway then sees a part, and each message is seen once.
fn gateways_on_a_shared_channel(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let config = cluster.config(false, "nsq: {channel: ch1}\nregistry: {ttl: 1h}\n");
    let gateways = [Apiserver::start(&config), Apiserver::start(&config)];
    for gateway in &gateways {
        eventually("the link", || connected(gateway, &cluster, 0).then_some(()));
    }
    pause(Duration::from_millis(300));
    for n in 0..200 {
        cluster.nsqds[0].publish(format!("127.0.0.1:{}", 20_000 + n).as_bytes());
    }
    let seen =
        || gateways.each_ref().map(|gateway| gateway.metric("gateway_heartbeats_total{result=\"joined\"}"));
    eventually("200 in all", || ((seen().iter().sum::<f64>() - 200.0).abs() < 0.1).then_some(()));
    assert!(seen().iter().all(|count| *count > 0.0), "{:?}", seen());
}

fn shared(gateway: &Apiserver, cluster: &Cluster) -> bool {
    gateway.metric(&format!("gateway_channel_shared{{nsqd=\"{}\"}}", cluster.nsqds[0].tcp)) > 0.0
}

fn a_shared_channel_is_told(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let config = cluster.config(true, &QUICK.replace("nsq: {", "nsq: {channel: ch1, "));
    let first = Apiserver::start(&config);
    eventually("the link", || connected(&first, &cluster, 0).then_some(()));
    pause(Duration::from_secs(2));
    assert!(!shared(&first, &cluster));
    let mut second = Apiserver::start(&config);
    for gateway in [&first, &second] {
        within(Duration::from_secs(5), "both to know", || shared(gateway, &cluster).then_some(()));
    }
    second.process.signal("TERM");
    second.process.wait();
    within(Duration::from_secs(5), "one to be alone", || (!shared(&first, &cluster)).then_some(()));
    assert_eq!(first.process.count("others read this gateway's channel"), 1, "a line a change");
    assert_eq!(first.process.count("nobody else reads this gateway's channel"), 1);
}

/// A lookup names it by another name than the config does: then one gateway reads it twice.
fn an_nsqd_of_two_names(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let port = cluster.nsqds[0].tcp.port();
    let config =
        cluster.config(true, QUICK).replace(&format!("127.0.0.1:{port}"), &format!("localhost:{port}"));
    let gateway = Apiserver::start(&config);
    let other = format!("gateway_nsqd_connected{{nsqd=\"localhost:{port}\"}}");
    eventually("both links", || {
        (connected(&gateway, &cluster, 0) && gateway.metric(&other) > 0.0).then_some(())
    });
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert!(!shared(&gateway, &cluster));
        pause(Duration::from_millis(100));
    }
    let stub = Stub::ok("");
    cluster.nsqds[0].publish(stub.addr().to_string().as_bytes());
    gateway.wait_for_live(&[&stub.addr().to_string()]);
}

/// The subscription ends with the gateway, and tokio-nsq has no occasion to panic.
fn a_gateway_leaves_without_a_trace(broker: Broker) {
    let cluster = Cluster::start(broker, 2);
    for _ in 0..10 {
        let mut gateway = Apiserver::start(&cluster.config(true, QUICK));
        eventually("both links", || {
            (connected(&gateway, &cluster, 0) && connected(&gateway, &cluster, 1)).then_some(())
        });
        gateway.process.signal("TERM");
        assert_eq!(gateway.process.wait().code(), Some(0));
        let output = gateway.process.output();
        assert!(!output.contains("panicked") && !output.contains("no longer read"), "{output}");
    }
    eventually("no channel of a gateway to be left", || {
        let stats = get(cluster.nsqds[0].http, "/stats?format=json&topic=data_server_addr").json();
        let channels = stats["topics"][0]["channels"].as_array().map_or(0, Vec::len);
        // An embedded nsqd has its own gateway's.
        (channels == usize::from(broker == Broker::Embedded)).then_some(())
    });
}

fn faults_20_an_nsqd_that_sends_hostile_frames_is_backed_off_from_and_costs_nothing() {
    use std::io::{Read, Write};
    for hostile in [
        &b"\xff\xff\xff\xff\0\0\0\x02xxxx"[..],
        &frame(2, b"abc"),
        &frame(7, b"?"),
        b"HTTP/1.1 400 Bad\r\n\r\n",
    ] {
        let hostile = hostile.to_vec();
        let nsqd = Stub::raw(move |mut stream| {
            // IDENTIFY and SUB as they should be, then the frame.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&frame(0, IDENTIFIED));
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&frame(0, b"OK"));
            let _ = stream.write_all(&hostile);
            let _ = stream.read(&mut [0; 4096]);
        });
        let config = format!("common: {{nsqd: ['{}']}}\nnsq: {{reconnect_max: 1s}}\n", nsqd.addr());
        let gateway = Apiserver::start(&config);
        let series = format!("gateway_nsqd_connected{{nsqd=\"{}\"}}", nsqd.addr());
        eventually("several tries", || (nsqd.connections() >= 4).then_some(()));
        let (tries, begun) = (nsqd.connections(), Instant::now());
        pause(Duration::from_secs(3));
        let tries = nsqd.connections() - tries;
        assert!(tries < 12, "{tries} tries in {:?}", begun.elapsed());
        let (lines, tries) = (gateway.process.count("WARN"), nsqd.connections());
        assert!((1..=tries).contains(&lines), "{lines} lines of {tries} tries: {}", gateway.process.output());
        eventually("not connected", || (gateway.metric(&series) < 1.0).then_some(()));
        assert!(gateway.metric("process_resident_memory_bytes") < 200e6);
    }
}

fn a_lookup_that_is_none_is_said_so() {
    let not_lookupd =
        Stub::answering(|_| b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nnot found".to_vec());
    let addr = not_lookupd.addr();
    let config = format!(
        "common: {{nsqlookupd: {{addr: {}, http_port: {}}}}}\nnsq: {{lookup_interval: 200ms}}\n",
        addr.ip(),
        addr.port()
    );
    let gateway = Apiserver::start(&config);
    gateway.process.wait_for("complaint", |line| line.contains("nsqlookupd fails").then_some(()));
    eventually("more polls", || (not_lookupd.requests().len() > 3).then_some(()));
    assert_eq!(gateway.process.count("nsqlookupd fails"), 1, "a line a change");
}
