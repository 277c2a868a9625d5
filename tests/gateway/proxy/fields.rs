//! Rows 20 to 29: the fields that an intermediary owns.

use std::io::{BufReader, Read, Write};

use libtest_mimic::Trial;

use super::{begin, gateway_and, through};
use crate::support::{
    Apiserver, Exchange, PATIENT, Reply, Stub, exchange, get, read_head, read_reply, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_20_what_any_connection_line_names_does_not_pass_either_way,
        http_21_what_is_for_one_connection_does_not_pass_either_way,
        http_22_the_gateways_own_fields_survive,
        http_23_via_is_appended_both_ways,
        http_24_what_a_user_says_of_itself_is_replaced,
        http_23_a_request_that_went_through_this_gateway_is_508,
        http_25_an_http10_user_gets_an_answer_that_ends_with_the_connection,
        http_25_an_http10_user_may_keep_the_connection,
        http_26_a_user_is_told_to_go_on_when_a_dataserver_was_chosen,
        http_26_a_final_status_comes_instead_of_a_100,
        http_26_a_body_that_was_asked_for_is_sent_though_its_answer_has_begun,
        http_26_without_a_dataserver_there_is_no_100,
        http_26_http10_has_no_expectations,
        http_27_interim_answers_neither_hang_nor_leak,
        http_29_the_host_is_kept,
    ]
}

/// A dataserver that is a way back to the gateway, as a heartbeat with an address of a load balancer makes one.
fn http_23_a_request_that_went_through_this_gateway_is_508() {
    let gateway = Apiserver::start(PATIENT);
    let back = gateway.listen;
    let stub = Stub::raw(move |mut stream| {
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap();
        let mut onward = std::net::TcpStream::connect(back).unwrap();
        onward.write_all(&request[..read]).unwrap();
        let read = onward.read(&mut request).unwrap();
        stream.write_all(&request[..read]).unwrap();
    });
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").status, 508);
    assert_eq!(stub.connections(), 1);
}

fn http_25_an_http10_user_gets_an_answer_that_ends_with_the_connection() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
    });
    let gateway = gateway_and("", &[&stub]);
    let reply = exchange(gateway.listen, b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!((reply.status, reply.text().as_str()), (200, "abc"));
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!(stub.requests()[0].first, "GET / HTTP/1.1");
    assert!(stub.requests()[0].header("via")[0].starts_with("1.0 nsq-gateway-"));
    assert_eq!(stub.requests()[0].header("host").len(), 1);
}

fn http_25_an_http10_user_may_keep_the_connection() {
    let stub = Stub::ok("kept");
    let gateway = gateway_and("", &[&stub]);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let reply = read_reply(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("kept", Some("keep-alive")));
    }
}

fn http_29_the_host_is_kept() {
    let (_, reached) = through(b"GET / HTTP/1.1\r\nHost: Example.org:8080\r\nConnection: close\r\n\r\n");
    assert_eq!(reached[0].header("host"), ["Example.org:8080"]);
}

/// Both ends of an exchange with these fields in the request and in the answer.
fn both(asked: &str, answered: &str) -> (Exchange, Reply) {
    let answer = format!("HTTP/1.1 200 OK\r\n{answered}content-length: 0\r\n\r\n").into_bytes();
    let stub = Stub::answering(move |_| answer.clone());
    let gateway = gateway_and("", &[&stub]);
    let reply = exchange(gateway.listen, format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n").as_bytes());
    (stub.requests().remove(0), reply)
}

/// The head of a request without the gateway's own fields, sorted: the order of fields does not matter.
fn lines(request: &Exchange) -> Vec<String> {
    let ours = ["via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
    let fields = request.headers.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
    let mut lines: Vec<_> = fields.map(|(name, value)| format!("{name}: {value}")).collect();
    lines.sort();
    lines
}

fn http_20_what_any_connection_line_names_does_not_pass_either_way() {
    let (request, reply) = both(
        "Connection: X-Secret, close\r\nConnection: x-other,, ,bad name\r\nX-Secret: 1\r\nx-secret: 2\r\nX-Other: 2\r\n\
         X-Stays: 3\r\n",
        "connection: x-private, keep-alive\r\nConnection: X-More\r\nx-private: 1\r\nX-more: 1\r\nx-public: 2\r\n",
    );
    assert_eq!(lines(&request), ["host: a", "x-stays: 3"]);
    assert!(["x-private", "x-more"].iter().all(|gone| reply.header(gone).is_none()), "{reply:?}");
    assert_eq!(reply.header("x-public"), Some("2"));
}

fn http_21_what_is_for_one_connection_does_not_pass_either_way() {
    let (request, reply) = both(
        "Connection: close\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nX-Stays: 3\r\n",
        "connection: keep-alive\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nproxy-connection: close\r\n\
         upgrade: h2c\r\nx-public: 2\r\n",
    );
    assert_eq!(lines(&request), ["host: a", "x-stays: 3"]);
    for gone in ["keep-alive", "proxy-authenticate", "proxy-connection", "upgrade"] {
        assert_eq!(reply.header(gone), None, "{gone} reached the user");
    }
    assert_eq!((reply.header("connection"), reply.header("x-public")), (Some("close"), Some("2")));
}

fn http_22_the_gateways_own_fields_survive() {
    let (request, reply) = both(
        "Connection: close, x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, via, host, content-length\r\n",
        "connection: via, content-length\r\n",
    );
    assert_eq!(request.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header("x-forwarded-proto"), ["http"]);
    assert_eq!(request.header("x-forwarded-host"), ["a"]);
    assert_eq!(request.header("host"), ["a"]);
    assert!(request.header("via")[0].starts_with("1.1 nsq-gateway-"));
    assert!(reply.header("via").unwrap().starts_with("1.1 nsq-gateway-"));
    assert_eq!(reply.header("content-length"), Some("0"));
}

fn http_23_via_is_appended_both_ways() {
    let (request, reply) = both("Connection: close\r\nVia: 1.1 first\r\n", "via: 1.0 inner\r\n");
    let ours = |via: &[&str], other: &str| {
        via.len() == 2 && via[0] == other && via[1].starts_with("1.1 nsq-gateway-")
    };
    assert!(ours(&request.header("via"), "1.1 first"), "{request:?}");
    let via: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name == "via").map(|(_, value)| value.as_str()).collect();
    assert!(ours(&via, "1.0 inner"), "{via:?}");
}

fn http_24_what_a_user_says_of_itself_is_replaced() {
    let (request, _) = both(
        "Connection: close\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n",
        "",
    );
    assert_eq!(request.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(request.header("x-forwarded-proto"), ["http"]);
    assert_eq!(request.header("x-forwarded-host"), ["a"]);
    assert_eq!(request.header("forwarded"), [""; 0]);
}

const EXPECTING: &[u8] =
    b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";

fn http_26_a_user_is_told_to_go_on_when_a_dataserver_was_chosen() {
    let stub = Stub::ok("done");
    let gateway = gateway_and("", &[&stub]);
    let mut stream = begin(gateway.listen, EXPECTING);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (first, _) = read_head(&mut reader).expect("no 100");
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    stream.write_all(b"hello").unwrap();
    assert_eq!(read_reply(&mut reader, false).unwrap().text(), "done");
    assert_eq!((stub.requests()[0].body.as_slice(), stub.requests()[0].complete), (&b"hello"[..], true));
}

/// A dataserver that wants to see no body must be able to say so before the user sends it.
/// The dataserver says both at once, and makes its answer of what it then gets.
fn http_26_a_body_that_was_asked_for_is_sent_though_its_answer_has_begun() {
    let stub = Stub::raw(|stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        let _ = (&stream).write_all(answer);
        let mut body = [0; 5];
        if reader.read_exact(&mut body).is_ok() {
            let _ = (&stream).write_all(&body);
        }
    });
    let gateway = gateway_and("timeouts: {idle_body: 5s}\n", &[&stub]);
    let mut stream = begin(gateway.listen, EXPECTING);
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (first, _) = read_head(&mut reader).expect("no 100");
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    stream.write_all(b"hello").unwrap();
    let reply = read_reply(&mut reader, false).unwrap();
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "hello", true));
}

fn http_26_a_final_status_comes_instead_of_a_100() {
    let stub = Stub::raw(|stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let _ = (&stream).write_all(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n");
        let _ = reader.read(&mut [0; 1]);
    });
    let gateway = gateway_and("", &[&stub]);
    let mut reader = BufReader::new(begin(gateway.listen, EXPECTING));
    let reply = read_reply(&mut reader, false).unwrap();
    assert_eq!(reply.status, 417);
}

fn http_26_without_a_dataserver_there_is_no_100() {
    let gateway = Apiserver::start(PATIENT);
    let reply = exchange(gateway.listen, EXPECTING);
    assert_eq!(reply.status, 503);
}

/// RFC 9110 §10.1.1: it must be ignored, by everybody behind the gateway, too.
fn http_26_http10_has_no_expectations() {
    let head = "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello";
    let (reply, reached) = through(head.as_bytes());
    assert_eq!((reply.status, reached[0].body.as_slice()), (200, &b"hello"[..]));
    assert!(reached[0].header("expect").is_empty());
}

fn http_27_interim_answers_neither_hang_nor_leak() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nx-early: 1\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            .to_vec()
    });
    let gateway = gateway_and("", &[&stub]);
    for _ in 0..3 {
        let reply = get(gateway.listen, "/");
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        assert!(reply.header("link").is_none() && reply.header("x-early").is_none(), "{reply:?}");
    }
}
