//! What stands between a user and the gateway: proxies that are trusted, and the PROXY protocol.

use std::io::{BufReader, Write};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, Exchange, PATIENT, Stub, connect, ends, eventually, exchange, post, read_reply, request,
    trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        what_a_trusted_proxy_says_of_the_client_is_passed_on,
        what_anybody_else_says_is_replaced,
        rfc9110_7_6_1_connection_takes_away_nothing_of_where_a_request_came_from,
        proxy_protocol_1_says_who_the_client_is,
        proxy_protocol_2_says_who_the_client_is,
        a_proxy_that_speaks_for_itself_keeps_its_address,
        a_header_may_come_byte_by_byte,
        a_connection_without_a_header_is_refused_and_counted,
        a_header_that_does_not_come_in_time_is_refused,
        a_connection_from_who_may_not_send_a_header_is_refused_and_counted,
        a_client_behind_proxy_protocol_is_held_against_admin_allow_and_trusted_proxies,
    ]
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Sends a request through a gateway to a stub, and returns what reached that.
#[track_caller]
fn reached(config: &str, bytes: &[u8]) -> Exchange {
    let stub = Stub::ok("");
    let gateway = Apiserver::start(&format!("{PATIENT}{config}"));
    gateway.announce(&[stub.addr()]);
    assert_eq!(exchange(gateway.listen, bytes).status, 200);
    stub.requests().remove(0)
}

const SAID: &str = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\n\
                    X-Forwarded-Host: b\r\nForwarded: for=6.6.6.6\r\n";

fn what_a_trusted_proxy_says_of_the_client_is_passed_on() {
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{SAID}\r\n");
    let reached = reached("gateway: {trusted_proxies: [10.0.0.0/8, loopback]}\n", bytes.as_bytes());
    assert_eq!(reached.header("x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(reached.header("x-forwarded-proto"), ["https"]);
    assert_eq!(reached.header("x-forwarded-host"), ["b"]);
    assert_eq!(reached.header("forwarded"), ["for=6.6.6.6, for=127.0.0.1;host=\"a\";proto=http"]);
}

fn what_anybody_else_says_is_replaced() {
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{SAID}\r\n");
    let reached = reached("gateway: {trusted_proxies: [10.0.0.0/8]}\n", bytes.as_bytes());
    assert_eq!(reached.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(reached.header("x-forwarded-proto"), ["http"]);
    assert_eq!(reached.header("x-forwarded-host"), ["a"]);
    assert!(reached.header("forwarded").is_empty());
}

/// A user whose proxy passes `Connection` on must not be able to hide his address behind that of the proxy.
fn rfc9110_7_6_1_connection_takes_away_nothing_of_where_a_request_came_from() {
    let named = "close, X-Forwarded-For, x-forwarded-proto, x-forwarded-host, forwarded, x-mine";
    let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {named}\r\nX-Mine: 1\r\n{SAID}\r\n");
    let trusted = reached("gateway: {trusted_proxies: loopback}\n", bytes.as_bytes());
    assert_eq!(trusted.header("x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(trusted.header("x-forwarded-proto"), ["https"]);
    assert_eq!(trusted.header("x-forwarded-host"), ["b"]);
    assert!(trusted.header("x-mine").is_empty());
    let stranger = reached("", bytes.as_bytes());
    assert_eq!(stranger.header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(stranger.header("x-forwarded-host"), ["a"]);
    assert!(stranger.header("forwarded").is_empty() && stranger.header("x-mine").is_empty());
}

/// A gateway whose admin paths need no PROXY protocol.
fn behind_a_proxy(stub: &Stub, config: &str) -> Apiserver {
    let gateway = Apiserver::start(&format!(
        "{PATIENT}timeouts: {{request_head: 2s}}\n\
         gateway: {{proxy_protocol: true, admin_listen: 127.0.0.1:0{config}}}\n"
    ));
    gateway.announce(&[stub.addr()]);
    gateway
}

/// What the dataserver is told about the client of a request that follows these bytes.
#[track_caller]
fn client_after(header: &[u8]) -> String {
    let stub = Stub::ok("");
    let gateway = behind_a_proxy(&stub, "");
    assert_eq!(exchange(gateway.listen, &[header, GET].concat()).status, 200);
    stub.requests()[0].header("x-forwarded-for")[0].to_owned()
}

/// Version 2, with this command and family, of IPv4 addresses and an extension.
fn v2(command: u8, family: u8) -> Vec<u8> {
    let block = [203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x34, 0x23, 0x28, 0x04, 0, 3, 1, 2, 3];
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family, 0, 18], &block].concat()
}

fn proxy_protocol_1_says_who_the_client_is() {
    assert_eq!(client_after(b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n"), "203.0.113.7");
    assert_eq!(client_after(b"PROXY TCP6 2001:db8::7 ::1 1 2\r\n"), "2001:db8::7");
}

fn proxy_protocol_2_says_who_the_client_is() {
    assert_eq!(client_after(&v2(0x21, 0x11)), "203.0.113.7");
    let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    v6.extend("2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    v6.extend([0; 20]);
    assert_eq!(client_after(&v6), "2001:db8::7");
    // The most that extensions may fill.
    let mut long = v2(0x21, 0x11);
    long[14..16].copy_from_slice(&4096u16.to_be_bytes());
    long.resize(16 + 4096, 0);
    assert_eq!(client_after(&long), "203.0.113.7");
}

fn a_proxy_that_speaks_for_itself_keeps_its_address() {
    assert_eq!(client_after(b"PROXY UNKNOWN\r\n"), "127.0.0.1");
    assert_eq!(client_after(b"PROXY UNKNOWN 6.6.6.6 6.6.6.6 1 2\r\n"), "127.0.0.1");
    assert_eq!(client_after(&v2(0x20, 0x11)), "127.0.0.1");
    assert_eq!(client_after(&v2(0x21, 0x00)), "127.0.0.1");
}

fn a_header_may_come_byte_by_byte() {
    let stub = Stub::ok("");
    let gateway = behind_a_proxy(&stub, "");
    for header in [b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n".to_vec(), v2(0x21, 0x11)] {
        let mut stream = connect(gateway.listen);
        for byte in [&header[..], GET].concat() {
            stream.write_all(&[byte]).unwrap();
        }
        assert_eq!(read_reply(&mut BufReader::new(stream), false).unwrap().status, 200);
    }
    assert!(stub.requests().iter().all(|request| request.header("x-forwarded-for") == ["203.0.113.7"]));
}

/// Whether a connection ends without an answer.
fn is_refused(gateway: &Apiserver, bytes: &[u8]) -> bool {
    let mut stream = connect(gateway.listen);
    let _ = stream.write_all(bytes);
    ends(&mut stream)
}

/// Whether so many connections were refused for this reason.
#[track_caller]
fn assert_refused(gateway: &Apiserver, reason: &str, count: usize) {
    let line = format!("gateway_connections_refused_total{{reason=\"{reason}\"}} {count}");
    let metrics = gateway.metrics();
    assert!(metrics.lines().any(|found| found == line), "no {line} in {metrics}");
}

fn a_connection_without_a_header_is_refused_and_counted() {
    let stub = Stub::ok("");
    let gateway = behind_a_proxy(&stub, "");
    let too_long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200], b"\r\n", GET].concat();
    let v2_too_long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x01"[..], &[0; 4097], GET].concat();
    let bad: [&[u8]; 6] = [
        GET,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 1\r\n",
        b"PROXY TCP4 203.0.113.7\n",
        &too_long,
        &v2_too_long,
    ];
    for bytes in bad {
        assert!(is_refused(&gateway, bytes), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_refused(&gateway, "proxy_protocol", bad.len());
    let good = [b"PROXY UNKNOWN\r\n", GET].concat();
    assert_eq!(exchange(gateway.listen, &good).status, 200);
    assert_eq!(stub.requests().len(), 1);
    assert_refused(&gateway, "proxy_protocol", bad.len());
}

fn a_header_that_does_not_come_in_time_is_refused() {
    let stub = Stub::ok("");
    let gateway = behind_a_proxy(&stub, "");
    for begun in [&b""[..], b"PROXY TCP4 203.", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01"] {
        assert!(is_refused(&gateway, begun));
    }
    assert_refused(&gateway, "proxy_protocol", 3);
}

/// Whoever is not on the list cannot claim an address, nor get in without claiming one.
fn a_connection_from_who_may_not_send_a_header_is_refused_and_counted() {
    let header = [&b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n"[..], GET].concat();
    let config = |networks: &str| {
        format!(
            "{PATIENT}gateway: {{proxy_protocol: {networks}, admin_listen: 127.0.0.1:0}}\n\
             timeouts: {{request_head: 20s}}\n"
        )
    };
    let stub = Stub::ok("");
    let gateway = Apiserver::start(&config("[10.0.0.0/8, '2001:db8::/32', 127.0.0.2]"));
    gateway.announce(&[stub.addr()]);
    for bytes in [&header[..], GET, b""] {
        assert!(is_refused(&gateway, bytes));
    }
    assert_refused(&gateway, "proxy_protocol_sender", 3);
    assert_refused(&gateway, "proxy_protocol", 0);
    assert!(stub.requests().is_empty());

    let gateway = Apiserver::start(&config("[loopback]"));
    gateway.announce(&[stub.addr()]);
    assert_eq!(exchange(gateway.listen, &header).status, 200);
    assert!(is_refused(&gateway, GET));
    assert_refused(&gateway, "proxy_protocol_sender", 0);
    assert_refused(&gateway, "proxy_protocol", 1);
    assert_eq!(stub.requests()[0].header("x-forwarded-for"), ["203.0.113.7"]);
}

fn a_client_behind_proxy_protocol_is_held_against_admin_allow_and_trusted_proxies() {
    let stub = Stub::ok("");
    let gateway = Apiserver::start(&format!(
        "{PATIENT}gateway: {{proxy_protocol: true, admin_allow: 203.0.113.7, trusted_proxies: 203.0.113.7}}\n"
    ));
    let from = |ip: &str, request: &[u8]| {
        let header = format!("PROXY TCP4 {ip} 10.0.0.1 1 2\r\n").into_bytes();
        exchange(gateway.listen, &[&header, request].concat())
    };
    let [_, nsq, _] = gateway.nsq.unwrap();
    assert_eq!(post(nsq, "/pub?topic=data_server_addr", stub.addr().to_string().as_bytes()).status, 200);
    let list = request("GET /dataservers", &[("connection", "close")], b"");
    assert_eq!(from("203.0.113.8", &list).status, 403);
    eventually("the stub to be live", || {
        let list = from("203.0.113.7", &list);
        (list.status == 200 && list.text().contains(&stub.addr().to_string())).then_some(())
    });
    let said = request("GET /", &[("connection", "close"), ("x-forwarded-for", "6.6.6.6")], b"");
    eventually("it to be picked from", || (from("203.0.113.7", &said).status == 200).then_some(()));
    assert_eq!(from("203.0.113.8", &said).status, 200);
    let told: Vec<_> = stub.requests().iter().map(|r| r.header("x-forwarded-for").join("|")).collect();
    assert_eq!(told, ["6.6.6.6, 203.0.113.7", "203.0.113.8"]);
}
