//! Keys about whom connections are taken from and whom requests go to, changed while connections are open.

use std::io::{BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use super::keys::Kept;
use super::start;
use crate::support::{Apiserver, Stub, connect, ends, eventually, get, pause, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        another_balance_chooses_for_the_next_request_of_an_open_connection,
        another_retry_budget_holds_for_the_next_request_of_an_open_connection,
        the_proxy_protocol_is_asked_of_those_who_come_then,
        another_nsqlookupd_leads_to_other_nsqds,
        a_probe_asks_for_something_else_and_waits_longer,
        other_failures_eject_and_for_another_time,
    ]
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Two dataservers, one of which is busy: random takes half of the requests to it, p2c a quarter (if both picks meet it).
fn another_balance_chooses_for_the_next_request_of_an_open_connection() {
    const ASKED: usize = 400;
    let config =
        |balance: &str| format!("gateway: {{workers: 1, balance: {balance}}}\nregistry: {{ttl: 1h}}\n");
    let gateway = start(&config("random"));
    let (busy, release) = (Arc::new(AtomicUsize::new(usize::MAX)), Arc::<AtomicBool>::default());
    let stubs = [0, 1].map(|n| {
        let (busy, release) = (busy.clone(), release.clone());
        Stub::answering(move |asked| {
            if asked.first.contains("/hold") {
                busy.store(n, Ordering::SeqCst);
                while !release.load(Ordering::SeqCst) {
                    pause(Duration::from_millis(5));
                }
            }
            OK.to_vec()
        })
    });
    gateway.announce(&stubs.each_ref().map(Stub::addr));
    let mut held = connect(gateway.listen);
    held.write_all(&request("GET /hold", &[], b"")).unwrap();
    let busy = eventually("the one that is busy", || stubs.get(busy.load(Ordering::SeqCst)));
    let mut kept = Kept::to(&gateway);
    let mut at_busy = || {
        let before = busy.requests().len();
        for _ in 0..ASKED {
            assert_eq!(kept.ask("/", &[]).status, 200);
        }
        busy.requests().len() - before
    };
    // Five standard deviations from each.
    let between = ASKED * 3 / 8;
    let random = at_busy();
    assert!(random > between, "{random}");
    gateway.change_to(&config("p2c"));
    let p2c = at_busy();
    assert!(p2c < between, "{p2c}");
    gateway.change_to(&config("random"));
    let random = at_busy();
    assert!(random > between, "{random}");
    release.store(true, Ordering::SeqCst);
}

fn another_retry_budget_holds_for_the_next_request_of_an_open_connection() {
    let config = |per_second: usize| {
        format!(
            "gateway: {{workers: 1, retry_budget: {{percent: 0, per_second: {per_second}}}}}
registry: {{ttl: 1h, ejection: {{failures: 0}}, probe: {{interval: 10ms}}}}\n"
        )
    };
    let gateway = start(&config(1000));
    let (closing, fine) = (Stub::answering(|_| Vec::new()), Stub::ok(""));
    gateway.announce(&[closing.addr(), fine.addr()]);
    let mut kept = Kept::to(&gateway);
    // Until the one that closes was tried again and again: it is doubted after each time, and back soon.
    let mut failed = || {
        let (before, mut failed) = (closing.requests().len(), 0);
        eventually("tries", || {
            failed += usize::from(kept.ask("/", &[]).status == 502);
            (closing.requests().len() >= before + 5).then_some(())
        });
        failed
    };
    assert_eq!(failed(), 0);
    gateway.change_to(&config(0));
    assert_eq!(failed(), 5, "none was sent again");
    gateway.change_to(&config(1000));
    // Nothing is paid in before a moment has passed.
    pause(Duration::from_millis(50));
    assert_eq!(failed(), 0);
}

fn the_proxy_protocol_is_asked_of_those_who_come_then() {
    const HEADER: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n";
    let config =
        |more: &str| format!("gateway: {{admin_listen: '127.0.0.1:0'{more}}}\nregistry: {{ttl: 1h}}\n");
    let gateway = start(&config(""));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    let client = || stub.requests().last().unwrap().header("x-forwarded-for").join(", ");
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/", &[]).status, 200);
    gateway.change_to(&config(", proxy_protocol: loopback"));
    assert_eq!(kept.ask("/", &[]).status, 200, "what is open goes on as it began");
    let mut without = connect(gateway.listen);
    without.write_all(&request("GET /", &[], b"")).unwrap();
    assert!(ends(&mut without));
    let mut with = connect(gateway.listen);
    with.write_all(&[HEADER, &request("GET /", &[], b"")].concat()).unwrap();
    let mut with = BufReader::new(with);
    assert_eq!(read_reply(&mut with, false).unwrap().status, 200);
    assert_eq!(client(), "203.0.113.7");
    gateway.change_to(&config(", proxy_protocol: [10.0.0.0/8]"));
    with.get_mut().write_all(&request("GET /", &[], b"")).unwrap();
    assert_eq!(read_reply(&mut with, false).unwrap().status, 200);
    assert!(ends(&mut connect(gateway.listen)), "who is not among the senders is not waited for");
    gateway.change_to(&config(""));
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert_eq!(client(), "127.0.0.1");
}

fn another_nsqlookupd_leads_to_other_nsqds() {
    let brokers = [(); 2].map(|()| Apiserver::start("registry: {capacity: 1}\n"));
    let [one, two] = brokers.each_ref().map(|broker| broker.nsq.unwrap());
    let config = |lookupd: SocketAddr| {
        format!(
            "registry: {{ttl: 1h}}\ncommon: {{nsqlookupd: [{{addr: '{}', http_port: {}}}]}}\nnsq: {{lookup_interval: 100ms}}\n",
            lookupd.ip(),
            lookupd.port()
        )
    };
    let gateway = start(&config(one[2]));
    let stubs = [Stub::ok(""), Stub::ok("")];
    let [first, second] = stubs.each_ref().map(|stub| stub.addr().to_string());
    let connected = |nsqd: SocketAddr| {
        eventually("the link", || {
            let port = format!(":{}\"}} 1", nsqd.port());
            let metrics = gateway.metrics();
            let mut links = metrics.lines().filter(|line| line.starts_with("gateway_nsqd_connected{"));
            links.any(|line| line.ends_with(&port)).then_some(())
        });
    };
    // Its first heartbeat makes the topic that the lookup is asked for.
    brokers[0].heartbeat(&first);
    connected(one[0]);
    brokers[0].heartbeat(&first);
    gateway.wait_for_live(&[&first]);
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/", &[]).status, 200);
    brokers[1].heartbeat(&second);
    gateway.change_to(&config(two[2]));
    connected(two[0]);
    brokers[1].heartbeat(&second);
    gateway.wait_for_live(&[&first, &second]);
    eventually("both to get requests", || {
        assert_eq!(kept.ask("/", &[]).status, 200);
        (!stubs[1].requests().is_empty()).then_some(())
    });
}

/// A dataserver that fails requests and is slow to say that it is well.
fn a_probe_asks_for_something_else_and_waits_longer() {
    let ill = Arc::new(AtomicBool::new(false));
    let is_ill = ill.clone();
    let stub = Stub::answering(move |asked| {
        if asked.first.contains("/well") {
            pause(Duration::from_millis(300));
        } else if is_ill.load(Ordering::SeqCst) {
            return Vec::new();
        }
        OK.to_vec()
    });
    let config = |path: &str, timeout: &str| {
        format!(
            "registry: {{ttl: 1h, ejection: {{failures: 0}}, probe: {{path: {path}, interval: 20ms, timeout: {timeout}}}}}\n"
        )
    };
    let gateway = start(&config("/well/1", "100ms"));
    gateway.announce(&[stub.addr()]);
    let asked = |path: &str| stub.requests().iter().filter(|asked| asked.first.contains(path)).count();
    let state = || gateway.state(stub.addr()).unwrap();
    ill.store(true, Ordering::SeqCst);
    let mut kept = Kept::to(&gateway);
    assert_eq!(kept.ask("/", &[]).status, 502);
    eventually("probes", || (asked("/well/1") > 3).then_some(()));
    assert_eq!(state(), "suspect", "each was too late");
    gateway.change_to(&config("/well/2", "100ms"));
    eventually("other probes", || (asked("/well/2") > 3).then_some(()));
    assert_eq!(state(), "suspect");
    ill.store(false, Ordering::SeqCst);
    gateway.change_to(&config("/well/2", "10s"));
    eventually("a probe that has the time", || (state() == "live").then_some(()));
    assert_eq!(kept.ask("/", &[]).status, 200);
}

fn other_failures_eject_and_for_another_time() {
    let stub = Stub::answering(|_| b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_vec());
    let config = |ejection: &str| format!("registry: {{ttl: 1h, ejection: {{{ejection}}}}}\n");
    let gateway = start(&config("answered_5xx: false, failures: 3, percent: 100"));
    gateway.announce(&[stub.addr()]);
    let mut kept = Kept::to(&gateway);
    let state = || gateway.state(stub.addr()).unwrap();
    for _ in 0..10 {
        assert_eq!(kept.ask("/", &[]).status, 500);
    }
    assert_eq!(state(), "live");
    gateway.change_to(&config("answered_5xx: true, failures: 6, percent: 100, duration: 100ms"));
    let ask = |kept: &mut Kept, times: usize| (0..times).for_each(|_| drop(kept.ask("/", &[])));
    ask(&mut kept, 5);
    assert_eq!(state(), "live");
    ask(&mut kept, 1);
    let told = get(gateway.listen, &format!("/dataservers/{}", stub.addr())).text();
    assert!(told.contains("ejected for 100ms"), "{told}");
    eventually("its return", || (state() == "live").then_some(()));
    gateway.change_to(&config("answered_5xx: true, failures: 2, percent: 0"));
    ask(&mut kept, 10);
    assert_eq!(state(), "live", "none of the set may be ejected");
    gateway
        .change_to(&config("answered_5xx: true, failures: 2, percent: 100, duration: 1h, max_duration: 1h"));
    ask(&mut kept, 1);
    assert_eq!(state(), "ejected");
}
