//! What a request is called: `X-Request-Id`, and `traceparent` of W3C Trace Context.

use std::io::BufReader;
use std::io::Write;

use libtest_mimic::Trial;

use super::{begin, gateway_and};
use crate::support::{Apiserver, Reply, Stub, exchange, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        a_good_id_is_known_to_the_dataserver_and_the_user,
        a_bad_id_is_passed_on_to_nobody,
        a_request_without_an_id_gets_one_where_that_is_wanted,
        an_id_cannot_be_taken_away_by_naming_it_as_hop_by_hop,
        the_gateways_own_errors_name_the_request,
        each_request_of_a_connection_has_its_own_id,
        names_that_are_made_do_not_count_for_limits_headers,
    ]
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Sends a request with these fields, and returns the answer and what the dataserver got of each name.
#[track_caller]
fn through(config: &str, fields: &[(&str, &str)], names: &[&str]) -> (Reply, Vec<Vec<String>>) {
    let stub = Stub::ok("");
    let gateway = gateway_and(config, &[&stub]);
    let reply = exchange(gateway.listen, &request("GET /", fields, b""));
    assert_eq!(reply.status, 200);
    let got = stub.requests().remove(0);
    let values = |name: &&str| got.header(name).into_iter().map(str::to_owned).collect();
    (reply, names.iter().map(values).collect())
}

fn a_good_id_is_known_to_the_dataserver_and_the_user() {
    let fields = [("x-request-id", "abc-1"), ("traceparent", TRACE), ("tracestate", "a=b")];
    for config in ["", "gateway: {request_id: make, traceparent: make}\n"] {
        let (reply, got) = through(config, &fields, &["x-request-id", "traceparent", "tracestate"]);
        assert_eq!(got, [["abc-1"], [TRACE], ["a=b"]]);
        assert_eq!(reply.header("x-request-id"), Some("abc-1"));
        assert_eq!(reply.header("traceparent"), None);
    }
}

fn a_bad_id_is_passed_on_to_nobody() {
    let long = "x".repeat(200);
    for bad in ["a\"b", "a b", "", &long] {
        let fields = [("x-request-id", bad), ("traceparent", bad), ("tracestate", "a=b")];
        let (reply, got) = through("", &fields, &["x-request-id", "traceparent", "tracestate"]);
        assert!(got.iter().all(Vec::is_empty), "{bad:?}: {got:?}");
        assert_eq!(reply.header("x-request-id"), None);
    }
    let twice =
        [("x-request-id", "a"), ("x-request-id", "b"), ("traceparent", TRACE), ("traceparent", TRACE)];
    let (reply, got) = through("", &twice, &["x-request-id", "traceparent"]);
    assert!(got.iter().all(Vec::is_empty), "{got:?}");
    assert_eq!(reply.header("x-request-id"), None);
}

fn a_request_without_an_id_gets_one_where_that_is_wanted() {
    let names = ["x-request-id", "traceparent"];
    let (reply, got) = through("", &[], &names);
    assert!(got.iter().all(Vec::is_empty) && reply.header("x-request-id").is_none());
    let config = "gateway: {request_id: make, traceparent: make}\n";
    for fields in [&[][..], &[("x-request-id", "a b"), ("traceparent", "00-1")]] {
        let (reply, got) = through(config, fields, &names);
        let (id, trace) = (&got[0], &got[1]);
        assert!(id.len() == 1 && id[0].len() == 32, "{id:?}");
        assert_eq!(reply.header("x-request-id"), Some(id[0].as_str()));
        assert!(trace.len() == 1 && trace[0].len() == 55 && trace[0].starts_with("00-"), "{trace:?}");
    }
}

fn an_id_cannot_be_taken_away_by_naming_it_as_hop_by_hop() {
    let config = "gateway: {request_id: make}\n";
    let (reply, got) = through(config, &[("connection", "x-request-id")], &["x-request-id"]);
    assert_eq!(reply.header("x-request-id"), Some(got[0][0].as_str()));
}

fn the_gateways_own_errors_name_the_request() {
    let gateway = Apiserver::start("");
    let ask = |fields: &[(&str, &str)]| exchange(gateway.listen, &request("GET /", fields, b""));
    let reply = ask(&[("x-request-id", "abc-1")]);
    assert_eq!((reply.status, reply.header("x-request-id")), (503, Some("abc-1")));
    assert_eq!(reply.json()["request_id"], "abc-1");
    let reply = ask(&[]);
    assert_eq!((reply.json().get("request_id"), reply.header("x-request-id")), (None, None));
    // Also where it is the request itself that is refused.
    let reply = ask(&[("host", "other"), ("x-request-id", "abc-2")]);
    assert_eq!((reply.status, &reply.json()["request_id"]), (400, &"abc-2".into()));
}

fn each_request_of_a_connection_has_its_own_id() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let mut stream = begin(gateway.listen, b"");
    for id in [Some("one"), None, Some("three")] {
        let fields: Vec<_> = id.map(|id| ("x-request-id", id)).into_iter().collect();
        stream.write_all(&request("GET /", &fields, b"")).unwrap();
        let reply = read_reply(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!(reply.header("x-request-id"), id);
    }
}

fn names_that_are_made_do_not_count_for_limits_headers() {
    let stub = Stub::ok("");
    let config = "gateway: {request_id: make, traceparent: make}\nlimits: {headers: 10}\n";
    let gateway = gateway_and(config, &[&stub]);
    let as_many_as_may_be = request("GET /", &[("x", "1"); 9], b""); // and a Host
    assert_eq!(exchange(gateway.listen, &as_many_as_may_be).status, 200);
}
