//! Rows 1 to 9 of what a proxy must do: the head of a request.

use libtest_mimic::Trial;

use super::{Strict, gateway_and, through};
use crate::support::{Stub, exchange, get, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        http_01_a_missing_repeated_or_malformed_host_is_400,
        http_01_and_framing_count_for_the_admin_paths_too,
        http_02_the_authority_of_an_absolute_target_wins,
        http_02_an_absolute_target_becomes_a_path,
        http_03_the_asterisk_is_for_options,
        http_04_connect_and_trace_are_405,
        http_04_the_authority_form_is_for_connect,
        http_05_options_with_max_forwards_0_is_answered_here,
        http_05_max_forwards_counts_down_for_options_alone,
        http_06_what_a_head_must_not_hold_is_400,
        http_07_another_version_is_400_or_505,
        http_08_limits_head_bytes_is_431,
        http_08_a_target_over_the_limit_is_414,
        http_08_limits_headers_is_431,
        http_09_unknown_methods_and_statuses_pass,
    ]
}

fn http_01_a_missing_repeated_or_malformed_host_is_400() {
    let strict = Strict::new("");
    strict.refuses(b"GET / HTTP/1.1\r\n\r\n", &[400]);
    strict.refuses(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400]);
    strict.refuses(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]);
    strict.refuses(b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", &[400]);
    strict.refuses(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", &[400]);
}

fn http_02_the_authority_of_an_absolute_target_wins() {
    let (reply, reached) = through(b"GET http://a:81/x?y HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
    assert_eq!(reply.status, 200);
    assert_eq!(reached[0].first, "GET /x?y HTTP/1.1");
    assert_eq!(reached[0].header("host"), ["a:81"]);
    assert_eq!(reached[0].header("x-forwarded-host"), ["a:81"]);
}

/// RFC 9112 §3.2.1 and §3.2.4: a path that is left out is `/`, but in an OPTIONS that asks about the host.
fn http_02_an_absolute_target_becomes_a_path() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    for (line, reached) in [
        ("GET http://a", "GET / HTTP/1.1"),
        ("GET http://a?x=/y", "GET /?x=/y HTTP/1.1"),
        ("GET http://a:81/?", "GET /? HTTP/1.1"),
        ("GET HTTP://a//x", "GET //x HTTP/1.1"),
        ("GET //a/x", "GET //a/x HTTP/1.1"),
        ("OPTIONS http://a", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://a:81", "OPTIONS * HTTP/1.1"),
        ("OPTIONS http://a/", "OPTIONS / HTTP/1.1"),
        ("OPTIONS http://a?x", "OPTIONS /?x HTTP/1.1"),
        ("OPTIONS /http://a", "OPTIONS /http://a HTTP/1.1"),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
        assert_eq!(exchange(gateway.listen, bytes.as_bytes()).status, 200, "{line}");
        assert_eq!(stub.requests().last().unwrap().first, reached, "{line}");
    }
}

fn http_03_the_asterisk_is_for_options() {
    let (_, reached) = through(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(reached[0].first, "OPTIONS * HTTP/1.1");
    Strict::new("").refuses(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[400]);
}

fn http_04_connect_and_trace_are_405() {
    let strict = Strict::new("");
    strict.refuses(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", &[405]);
    strict.refuses(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", &[405]);
}

fn http_04_the_authority_form_is_for_connect() {
    let strict = Strict::new("");
    strict.refuses(b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", &[400]);
    strict.refuses(b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", &[400]);
}

fn http_08_limits_head_bytes_is_431() {
    let stub = Stub::ok("");
    let gateway = gateway_and("limits: {head_bytes: 8192}\n", &[&stub]);
    let fits = "x".repeat(7000);
    assert_eq!(
        exchange(gateway.listen, &request("GET /", &[("x", &fits), ("connection", "close")], b"")).status,
        200
    );
    let too_long = "x".repeat(9000);
    let too_long = request("GET /", &[("x", &too_long)], b"");
    Strict::new("limits: {head_bytes: 8192}\n").refuses_and_closes(&too_long, &[431]);
}

fn http_08_limits_headers_is_431() {
    let stub = Stub::ok("");
    let gateway = gateway_and("limits: {headers: 10}\n", &[&stub]);
    let fields = vec![("x", "1"); 8];
    assert_eq!(
        exchange(gateway.listen, &request("GET /", &[&fields[..], &[("connection", "close")]].concat(), b""))
            .status,
        200
    );
    let too_many = request("GET /", &[("x", "1"); 20], b"");
    Strict::new("limits: {headers: 10}\n").refuses_and_closes(&too_many, &[431]);
}

fn http_09_unknown_methods_and_statuses_pass() {
    let stub = Stub::answering(|_| b"HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nok".to_vec());
    let gateway = gateway_and("", &[&stub]);
    let reply = exchange(gateway.listen, &request("BREW /pot", &[("connection", "close")], b""));
    assert_eq!((reply.status, reply.text().as_str()), (299, "ok"));
    assert_eq!(stub.requests()[0].first, "BREW /pot HTTP/1.1");
    assert!(gateway.metric("gateway_requests_total{method=\"other\",code=\"299\"}") > 0.0);
    let stub = Stub::answering(|_| b"HTTP/1.1 777 Odder\r\ncontent-length: 0\r\n\r\n".to_vec());
    let gateway = gateway_and("", &[&stub]);
    assert_eq!(get(gateway.listen, "/").status, 777);
    assert!(
        gateway.metric("gateway_requests_total{method=\"GET\",code=\"599\"}") > 0.0,
        "no standard status"
    );
}

/// A target may be long, but not for ever: hyper takes 65,534 bytes at the most.
fn http_08_a_target_over_the_limit_is_414() {
    let target = |length| request(&format!("GET /{}", "x".repeat(length)), &[("connection", "close")], b"");
    let (reply, reached) = through(&target(30_000));
    assert_eq!((reply.status, reached.len()), (200, 1));
    Strict::new("limits: {head_bytes: 1048576}\n").refuses_and_closes(&target(70_000), &[414, 431]);
    Strict::new("limits: {head_bytes: 8192}\n").refuses_and_closes(&target(9_000), &[414, 431]);
}

fn http_05_options_with_max_forwards_0_is_answered_here() {
    for target in ["*", "/", "/x?y", "http://a/"] {
        let bytes =
            format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n");
        let (reply, reached) = through(bytes.as_bytes());
        assert_eq!((reply.status, reply.header("content-length")), (200, Some("0")), "{target}");
        let allow = reply.header("allow").expect("no Allow");
        assert!(["GET", "HEAD", "OPTIONS"].iter().all(|method| allow.contains(method)), "{allow}");
        assert!(reached.is_empty(), "{reached:?}");
    }
}

fn http_05_max_forwards_counts_down_for_options_alone() {
    let arrives = |method: &str, value: &str| {
        let bytes =
            format!("{method} / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {value}\r\nConnection: close\r\n\r\n");
        let (reply, reached) = through(bytes.as_bytes());
        assert_eq!(reply.status, 200, "{method} with {value}");
        reached[0].header("max-forwards").join("|")
    };
    assert_eq!(arrives("OPTIONS", "1"), "0");
    assert_eq!(arrives("OPTIONS", "10"), "9");
    // What is no number means nothing, and other methods have no use for it.
    for malformed in ["x", "-1", "+1", "1, 0", "0x0", ""] {
        assert_eq!(arrives("OPTIONS", malformed), malformed);
    }
    assert_eq!(arrives("GET", "0"), "0");
    assert_eq!(arrives("POST", "5"), "5");
}

fn http_06_what_a_head_must_not_hold_is_400() {
    let strict = Strict::new("");
    for field in [
        &b"X: a\r\n b"[..],
        b"X: a\r\n\tb",
        b"X : a",
        b"X\t: a",
        b" X: a",
        b": a",
        b"X",
        b"X: a\rb",
        b"X: a\0b",
        b"X: a\x01b",
        b"X: a\x7fb",
        b"X\0Y: a",
        b"X Y: a",
        b"X\x80: a",
        b"X@: a",
    ] {
        let bytes = [b"GET / HTTP/1.1\r\nHost: a\r\n", field, b"\r\n\r\n"].concat();
        strict.refuses_and_closes(&bytes, &[400]);
    }
    for line in [
        &b"GET /\0 HTTP/1.1"[..],
        b"G\0T / HTTP/1.1",
        b"GET /a b HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET\r / HTTP/1.1",
    ] {
        strict.refuses_and_closes(&[line, b"\r\nHost: a\r\n\r\n"].concat(), &[400]);
    }
}

fn http_07_another_version_is_400_or_505() {
    let strict = Strict::new("");
    for version in [
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3.0",
        "HTTP/0.9",
        "HTTP/11",
        "HTTP/1.10",
        "http/1.1",
        "HTTP",
        "ICY/1.1",
        "HTTP/1,1",
    ] {
        strict.refuses_and_closes(format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes(), &[400, 505]);
    }
    strict.refuses_and_closes(b"GET /\r\n\r\n", &[400, 505]);
}

/// What the gateway answers itself shares its connections with what it forwards.
fn http_01_and_framing_count_for_the_admin_paths_too() {
    let strict = Strict::new("");
    strict.refuses(b"GET /healthz HTTP/1.1\r\n\r\n", &[400]);
    strict.refuses(b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]);
    let both = b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    strict.refuses_and_closes(both, &[400]);
    let coded = b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    strict.refuses_and_closes(coded, &[400, 501]);
}
