//! Who is still there when a gateway leaves: at its embedded NSQ, and at its admin paths.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use libtest_mimic::Trial;

use super::{REGISTRY, first, take_over, where_it_listens};
use crate::support::{Apiserver, Process, Stub, connect, event, eventually, get, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        who_is_stuck_at_the_embedded_nsq_does_not_hold_up_a_takeover,
        who_is_stuck_at_several_places_holds_up_the_end_as_if_at_one,
        neither_of_the_two_says_that_heartbeats_fail,
    ]
}

/// A request to the embedded NSQ that never ends.
fn stuck_at_nsq(gateway: &Apiserver) -> TcpStream {
    let [_, http, _] = gateway.nsq.unwrap();
    let mut stuck = connect(http);
    stuck
        .write_all(b"POST /pub?topic=other HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhalf")
        .unwrap();
    // It has come before whoever is answered later.
    assert_eq!(get(http, "/ping").text(), "OK");
    stuck
}

/// When it said so.
fn told(process: &Process, message: &str) -> SystemTime {
    let line = process.wait_for(message, |line| event(line, message));
    humantime::parse_rfc3339(line["timestamp"].as_str().unwrap()).unwrap()
}

fn who_is_stuck_at_the_embedded_nsq_does_not_hold_up_a_takeover() {
    let mut old = first(1, "");
    let _stuck = stuck_at_nsq(&old);
    let new = take_over(&where_it_listens(&old, 1, REGISTRY));
    let leaves = told(&old.process, "another gateway has taken over");
    let took = told(&new.process, "taken over").duration_since(leaves).unwrap_or_default();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(old.process.wait().code(), Some(0));
}

fn who_is_stuck_at_several_places_holds_up_the_end_as_if_at_one() {
    let mut gateway =
        Apiserver::start("gateway: {admin_listen: '127.0.0.1:0'}\ntimeouts: {drain_idle: 10s}\n");
    let _at_nsq = stuck_at_nsq(&gateway);
    let mut at_admin = connect(gateway.admin.unwrap());
    at_admin.write_all(b"GET /heal").unwrap();
    assert_eq!(get(gateway.admin.unwrap(), "/healthz").status, 200);
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    let stopped = told(&gateway.process, "stopped");
    let took = stopped.duration_since(told(&gateway.process, "draining")).unwrap_or_default();
    assert!(took > Duration::from_millis(1900), "both are stuck: {took:?}");
    assert!(took < Duration::from_millis(2800), "{took:?}");
}

/// Nobody was heard yet by the new one, and the old one hears nobody any more.
fn neither_of_the_two_says_that_heartbeats_fail() {
    let silent = Stub::raw(|stream| {
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    });
    let mut old = first(1, "timeouts: {drain: 2s}\n");
    old.announce(&[silent.addr(), "127.0.0.9:1".parse().unwrap()]);
    let mut stuck = connect(old.listen);
    stuck.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("the request to arrive", || (silent.connections() > 0).then_some(()));
    let new = take_over(&where_it_listens(&old, 1, REGISTRY));
    assert_eq!(old.process.wait().code(), Some(0));
    assert_eq!(old.process.count("were cut off"), 1, "it did not leave at once");
    assert_eq!(old.process.count("the live set is frozen"), 0, "{}", old.process.output());
    assert_eq!(new.process.count("most dataservers are silent"), 0, "{}", new.process.output());
}
