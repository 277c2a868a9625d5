//! What a user gets when dataservers fail, and what the operator sees of it.

use std::io::BufReader;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{assert_problem, gateway_and, silent};
use crate::support::{
    Apiserver, DataserverProcess, PATIENT, Stub, eventually, get, pause, post, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        faults_11_with_no_live_dataserver_503_at_once_and_when_to_come_again,
        requests_reach_every_live_dataserver,
        a_dataserver_that_refuses_costs_nobody_a_request,
        faults_19_a_request_passes_over_a_crowd_that_refuses_it,
        a_request_that_was_sent_reaches_three_dataservers_at_most,
        faults_3_a_dataserver_that_reads_and_closes_fails_no_get_and_sees_no_post_twice,
        faults_1_a_dataserver_that_is_killed_under_load_fails_no_get,
        gateway_retry_budget_bounds_what_is_sent_again,
        an_expired_dataserver_gets_no_request_though_nobody_swept,
        a_host_name_is_resolved_and_one_that_leads_nowhere_is_passed_over,
        p2c_prefers_the_less_loaded,
    ]
}

fn faults_11_with_no_live_dataserver_503_at_once_and_when_to_come_again() {
    let gateway = Apiserver::start("");
    let begun = Instant::now();
    let reply = get(gateway.listen, "/");
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_problem(&reply, 503, "destination_unavailable");
    assert_eq!(reply.header("retry-after"), Some("1"));
}

fn requests_reach_every_live_dataserver() {
    let stubs: Vec<_> = (0..5).map(|_| Stub::ok("")).collect();
    let gateway = gateway_and("", &stubs.iter().collect::<Vec<_>>());
    for _ in 0..200 {
        assert_eq!(get(gateway.listen, "/").status, 200);
    }
    let counts: Vec<_> = stubs.iter().map(|stub| stub.requests().len()).collect();
    assert_eq!(counts.iter().sum::<usize>(), 200);
    // 40 each on average with a deviation of 5.7: ten is more than five deviations away.
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
}

fn a_dataserver_that_refuses_costs_nobody_a_request() {
    let stub = Stub::ok("alive");
    let gateway = gateway_and("", &[&stub]);
    gateway.announce(&[stub.addr(), Stub::refusing()]);
    for n in 0..100 {
        let reply = if n % 2 == 0 { get(gateway.listen, "/") } else { post(gateway.listen, "/", b"body") };
        assert_eq!(reply.text(), "alive");
    }
    assert_eq!(stub.requests().len(), 100);
    assert!(
        stub.requests()
            .iter()
            .all(|request| request.complete && (request.body.is_empty() || request.body == b"body"))
    );
    // The first to be refused made it doubtful for all, and a probe settled that.
    let retries = gateway.metric("gateway_retries_total{reason=\"connect\"}");
    assert!((1.0..10.0).contains(&retries), "{retries}");
}

fn faults_19_a_request_passes_over_a_crowd_that_refuses_it() {
    let gateway = gateway_and("", &[]);
    let mut crowd = Stub::all_refusing(12);
    gateway.announce(&crowd);
    assert_problem(&get(gateway.listen, "/"), 502, "connection_refused");
    let (stub, gateway) = (Stub::ok("alive"), gateway_and("", &[]));
    crowd.push(stub.addr());
    gateway.announce(&crowd);
    assert_eq!(post(gateway.listen, "/", b"body").text(), "alive");
    assert_eq!(stub.requests().len(), 1);
}

fn a_request_that_was_sent_reaches_three_dataservers_at_most() {
    let stubs: Vec<_> = (0..6).map(|_| Stub::answering(|_| Vec::new())).collect();
    let gateway = gateway_and("", &stubs.iter().collect::<Vec<_>>());
    assert_problem(&get(gateway.listen, "/"), 502, "connection_terminated");
    assert_eq!(stubs.iter().map(|stub| stub.requests().len()).sum::<usize>(), 3);
}

fn faults_3_a_dataserver_that_reads_and_closes_fails_no_get_and_sees_no_post_twice() {
    let (closing, fine) = (Stub::answering(|_| Vec::new()), Stub::ok("fine"));
    let registry = "registry: {ttl: 1h, ejection: {failures: 0}, probe: {interval: 10ms}}\n";
    let gateway = Apiserver::start(registry);
    gateway.announce(&[closing.addr(), fine.addr()]);
    for _ in 0..40 {
        assert_eq!(get(gateway.listen, "/").text(), "fine");
    }
    assert!(
        !closing.requests().is_empty() && gateway.metric("gateway_retries_total{reason=\"closed\"}") > 0.0
    );
    // It is doubted after each failure, and back when it has passed a probe.
    let answers: Vec<_> = (0..40)
        .map(|n| {
            pause(Duration::from_millis(10));
            post(gateway.listen, &format!("/{n}"), b"once").status
        })
        .collect();
    assert!(
        answers.iter().all(|status| [200, 502].contains(status)) && answers.contains(&502),
        "{answers:?}"
    );
    let mut posted: Vec<_> =
        closing.requests().iter().chain(&fine.requests()).map(|request| request.first.clone()).collect();
    posted.retain(|first| first.starts_with("POST"));
    let all = posted.len();
    posted.sort();
    posted.dedup();
    assert_eq!((posted.len(), all), (40, 40), "each reached one of them, once");
}

/// kill -9 of one of three, with requests under way on it.
fn faults_1_a_dataserver_that_is_killed_under_load_fails_no_get() {
    let gateway = Apiserver::start("registry: {ttl: 3s, sweep_interval: 200ms}\n");
    let config = format!("common: {{heart_beat_time: 1, nsqd: ['{}']}}\n", gateway.nsq.unwrap()[0]);
    let mut dataservers: Vec<_> = (0..3).map(|_| DataserverProcess::start(&config)).collect();
    eventually("three live", || (gateway.live().len() == 3).then_some(()));
    pause(Duration::from_millis(50));
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let (stop, to) = (stop.clone(), gateway.listen);
            std::thread::spawn(move || {
                let stream = TcpStream::connect(to).unwrap();
                let (mut writer, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
                let mut answers = 0;
                while !stop.load(Ordering::SeqCst) {
                    // Some are under way for long enough to be caught by the kill.
                    let path = if n % 2 == 0 { "GET /" } else { "GET /delay/20" };
                    writer.write_all(&request(path, &[], b"")).unwrap();
                    let reply = read_reply(&mut reader, false).expect("no answer");
                    assert!(reply.status == 200 && reply.complete, "{reply:?}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    pause(Duration::from_millis(500));
    dataservers.pop().unwrap().process.kill();
    pause(Duration::from_secs(1));
    dataservers.pop().unwrap().process.kill();
    eventually("one live", || (gateway.live().len() == 1).then_some(()));
    stop.store(true, Ordering::SeqCst);
    let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answers > 1000, "{answers}");
}

fn gateway_retry_budget_bounds_what_is_sent_again() {
    let stubs = [Stub::answering(|_| Vec::new()), Stub::answering(|_| Vec::new())];
    let requests = || stubs.iter().map(|stub| stub.requests().len()).sum::<usize>();
    let budget = "gateway: {workers: 1, retry_budget: {percent: 0, per_second: 0}}\n";
    let gateway = gateway_and(budget, &stubs.iter().collect::<Vec<_>>());
    for _ in 0..10 {
        assert_problem(&get(gateway.listen, "/"), 502, "connection_terminated");
    }
    assert_eq!(requests(), 10);
}

fn an_expired_dataserver_gets_no_request_though_nobody_swept() {
    let gateway = Apiserver::start("registry: {ttl: 1s, sweep_interval: 10m}\n");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").status, 200);
    pause(Duration::from_millis(1100));
    assert_eq!(get(gateway.listen, "/").status, 503);
    assert_eq!(gateway.live(), Vec::<String>::new());
    assert_eq!(stub.requests().len(), 1);
}

fn a_host_name_is_resolved_and_one_that_leads_nowhere_is_passed_over() {
    let stub = Stub::ok("by name");
    let gateway = Apiserver::start(PATIENT);
    let http = gateway.nsq.unwrap()[1];
    let named = format!("localhost:{}", stub.addr().port());
    post(http, "/pub?topic=data_server_addr", named.as_bytes());
    post(http, "/pub?topic=data_server_addr", b"no-such-host.invalid:80");
    gateway.wait_for_live(&[&named, "no-such-host.invalid:80"]);
    pause(Duration::from_millis(50));
    for _ in 0..20 {
        assert_eq!(get(gateway.listen, "/").text(), "by name");
    }
    // A name that leads to the gateway itself is no dataserver, and never dialled.
    let gateway = Apiserver::start(PATIENT);
    let own = format!("localhost:{}", gateway.listen.port());
    post(gateway.nsq.unwrap()[1], "/pub?topic=data_server_addr", own.as_bytes());
    gateway.wait_for_live(&[&own]);
    pause(Duration::from_millis(50));
    assert_problem(&get(gateway.listen, "/"), 502, "dns_error");
}

fn p2c_prefers_the_less_loaded() {
    let (busy, idle) = (silent(), Stub::ok(""));
    let gateway = gateway_and("gateway: {balance: p2c, workers: 1}\n", &[&busy]);
    let mut held = Vec::new();
    for n in 1..=8 {
        let mut stream = TcpStream::connect(gateway.listen).unwrap();
        stream.write_all(&request("GET /", &[], b"")).unwrap();
        held.push(stream);
        eventually("it to be under way", || {
            (gateway.metric("gateway_requests_in_flight") >= f64::from(n)).then_some(())
        });
    }
    gateway.announce(&[busy.addr(), idle.addr()]);
    // Both choices fall on the busy one a quarter of the time; otherwise the idle one is taken.
    let mut answered = 0;
    for _ in 0..40 {
        let mut stream = TcpStream::connect(gateway.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.write_all(&request("GET /", &[("connection", "close")], b"")).unwrap();
        answered += usize::from(read_reply(&mut BufReader::new(stream), false).is_some());
    }
    // 30 expected with a deviation of 2.7; random choice would give 20 with one of 3.2.
    assert!(answered >= 22, "{answered} of 40");
}
