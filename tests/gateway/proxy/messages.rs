//! What reaches the dataserver, and what reaches the user. Numbers are rows of the table of an intermediary's
//! duties: each test names the section of the standard that it keeps.

use std::io::{BufReader, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, Exchange, PATIENT, Reply, Stub, eventually, exchange, get, pause, post, read_reply, request,
    trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        rfc9112_3_2_a_missing_repeated_or_malformed_host_is_400,
        rfc9112_3_2_2_the_authority_of_an_absolute_target_wins,
        rfc9112_3_2_4_the_asterisk_is_for_options,
        connect_and_trace_are_405,
        http_10_a_request_with_two_lengths_is_400,
        rfc9112_6_1_any_coding_but_chunked_is_501,
        a_get_with_a_chunked_body_is_delivered_whole,
        no_framing_is_added_to_a_get_without_a_body,
        an_http10_user_gets_an_answer_that_ends_with_the_connection,
        rfc9110_7_6_1_hop_by_hop_fields_do_not_pass_either_way,
        x_forwarded_and_via_are_the_gateways_own,
        the_host_is_kept,
        an_answer_to_head_keeps_its_length_and_204_has_none,
        chunks_win_over_a_length_in_an_answer,
        an_answer_in_another_coding_is_502,
        a_switch_of_protocols_that_nobody_asked_for_is_502,
        rfc9110_7_8_an_upgrade_makes_a_tunnel_both_ways,
        an_upgrade_that_is_declined_is_an_answer_like_any_other,
        timeouts_idle_tunnel_ends_a_tunnel,
        a_tunnel_has_the_drain_time_to_end,
        rfc9112_3_2_3_the_authority_form_is_for_connect,
        rfc9110_7_6_3_a_request_that_went_through_this_gateway_is_508,
        an_http10_user_may_keep_the_connection,
        unknown_methods_and_statuses_pass,
        pipelined_requests_are_answered_in_order,
        bodies_stream_up,
        bodies_stream_down,
        connections_are_kept_on_both_sides,
        a_large_body_passes_both_ways_unchanged,
    ]
}

fn gateway_and(stub: &Stub) -> Apiserver {
    let gateway = Apiserver::start(PATIENT);
    gateway.announce(&[stub.addr()]);
    gateway
}

/// Sends a request through a gateway to a stub that says 200, and returns both ends.
fn through(bytes: &[u8]) -> (Reply, Vec<Exchange>) {
    let stub = Stub::ok("");
    let gateway = gateway_and(&stub);
    let reply = exchange(gateway.listen, bytes);
    (reply, stub.requests())
}

#[track_caller]
fn refused(bytes: &[u8], status: u16) {
    let (reply, reached) = through(bytes);
    assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(bytes));
    assert!(reached.is_empty(), "{reached:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.json()["status"], status);
    assert!(reply.header("proxy-status").unwrap().starts_with("nsq-gateway; error=http_request_"));
}

fn rfc9112_3_2_a_missing_repeated_or_malformed_host_is_400() {
    refused(b"GET / HTTP/1.1\r\n\r\n", 400);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400);
    refused(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    refused(b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400);
    refused(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400);
}

fn rfc9112_3_2_2_the_authority_of_an_absolute_target_wins() {
    let (reply, reached) = through(b"GET http://a:81/x?y HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n");
    assert_eq!(reply.status, 200);
    assert_eq!(reached[0].first, "GET /x?y HTTP/1.1");
    assert_eq!(reached[0].header("host"), ["a:81"]);
    assert_eq!(reached[0].header("x-forwarded-host"), ["a:81"]);
}

fn rfc9112_3_2_4_the_asterisk_is_for_options() {
    let (_, reached) = through(b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(reached[0].first, "OPTIONS * HTTP/1.1");
    refused(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

fn connect_and_trace_are_405() {
    refused(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405);
    refused(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405);
}

fn http_10_a_request_with_two_lengths_is_400() {
    for fields in
        ["Content-Length: 4\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 4"]
    {
        let both = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        refused(both.as_bytes(), 400);
    }
}

fn rfc9112_6_1_any_coding_but_chunked_is_501() {
    for coding in ["gzip, chunked", "chunked, chunked", "xchunked, chunked"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        refused(head.as_bytes(), 501);
    }
    // What does not end in chunked has no end that could be found.
    let (reply, reached) = through(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n");
    assert!(reply.status == 400 || reply.status == 501, "{}", reply.status);
    assert!(reached.is_empty());
}

fn a_get_with_a_chunked_body_is_delivered_whole() {
    for method in ["GET", "POST", "DELETE"] {
        let head = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let (reply, reached) = through(&[head.as_bytes(), b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"].concat());
        assert_eq!(reply.status, 200);
        assert_eq!((reached[0].body.as_slice(), reached[0].complete), (&b"abcde"[..], true), "{method}");
    }
}

fn no_framing_is_added_to_a_get_without_a_body() {
    let (_, reached) = through(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(
        reached[0].header("content-length").is_empty() && reached[0].header("transfer-encoding").is_empty()
    );
    let (_, reached) =
        through(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(reached[0].header("content-length"), ["0"]);
}

fn an_http10_user_gets_an_answer_that_ends_with_the_connection() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()
    });
    let gateway = gateway_and(&stub);
    let reply = exchange(gateway.listen, b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!((reply.status, reply.text().as_str()), (200, "abc"));
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!(stub.requests()[0].first, "GET / HTTP/1.1");
    assert!(stub.requests()[0].header("via")[0].starts_with("1.0 nsq-gateway-"));
    assert_eq!(stub.requests()[0].header("host").len(), 1);
}

fn rfc9110_7_6_1_hop_by_hop_fields_do_not_pass_either_way() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\nconnection: x-private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\n\
          proxy-authenticate: Basic\r\nupgrade: h2c\r\nx-public: 2\r\nvia: 1.1 inner\r\ncontent-length: 0\r\n\r\n"
            .to_vec()
    });
    let gateway = gateway_and(&stub);
    let reply = exchange(
        gateway.listen,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, close\r\nConnection: x-other\r\nX-Secret: 1\r\nX-Other: 2\r\n\
          Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: gzip\r\nUpgrade: h2c\r\n\
          X-Stays: 3\r\n\r\n",
    );
    let request = &stub.requests()[0];
    let reached: Vec<_> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    for gone in [
        "x-secret",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "connection",
    ] {
        assert!(!reached.contains(&gone), "{gone} reached the dataserver: {request:?}");
    }
    assert_eq!(request.header("x-stays"), ["3"]);
    for gone in ["x-private", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(reply.header(gone), None, "{gone} reached the user");
    }
    assert_eq!(reply.header("x-public"), Some("2"));
    let via: Vec<_> =
        reply.headers.iter().filter(|(name, _)| name == "via").map(|(_, value)| value.as_str()).collect();
    assert!(via.len() == 2 && via[0] == "1.1 inner" && via[1].starts_with("1.1 nsq-gateway-"), "{via:?}");
}

fn x_forwarded_and_via_are_the_gateways_own() {
    let (_, reached) = through(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-forwarded-for, via\r\nX-Forwarded-For: 6.6.6.6\r\n\
          X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\r\n",
    );
    assert_eq!(reached[0].header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(reached[0].header("x-forwarded-proto"), ["http"]);
    assert_eq!(reached[0].header("x-forwarded-host"), ["a"]);
    assert_eq!(reached[0].header("forwarded"), [""; 0]);
    let via = reached[0].header("via");
    assert!(via.len() == 1 && via[0].starts_with("1.1 nsq-gateway-"), "{via:?}");
    let (_, reached) = through(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nVia: 1.1 first\r\n\r\n");
    let via = reached[0].header("via");
    assert!(via.len() == 2 && via[0] == "1.1 first" && via[1].starts_with("1.1 nsq-gateway-"), "{via:?}");
}

fn the_host_is_kept() {
    let (_, reached) = through(b"GET / HTTP/1.1\r\nHost: Example.org:8080\r\nConnection: close\r\n\r\n");
    assert_eq!(reached[0].header("host"), ["Example.org:8080"]);
}

fn an_answer_to_head_keeps_its_length_and_204_has_none() {
    let stub = Stub::answering(|exchange| match exchange.first.as_str() {
        "HEAD /with HTTP/1.1" => b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n".to_vec(),
        "HEAD /without HTTP/1.1" => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        "GET /304 HTTP/1.1" => b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n".to_vec(),
        _ => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
    });
    let gateway = gateway_and(&stub);
    let ask = |what: &str| exchange(gateway.listen, &request(what, &[("connection", "close")], b""));
    assert_eq!(ask("HEAD /with").header("content-length"), Some("12345"));
    assert_eq!(ask("HEAD /without").header("content-length"), None);
    let reply = ask("GET /304");
    assert_eq!((reply.status, reply.header("etag"), reply.header("content-length")), (304, Some("x"), None));
    let reply = ask("GET /204");
    assert_eq!((reply.status, reply.header("content-length")), (204, None));
}

fn chunks_win_over_a_length_in_an_answer() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .to_vec()
    });
    let gateway = gateway_and(&stub);
    let reply = get(gateway.listen, "/");
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "abc", true));
    assert_eq!(reply.header("content-length"), None);
}

fn an_answer_in_another_coding_is_502() {
    for coding in ["gzip", "gzip, chunked"] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n").into_bytes();
        let stub = Stub::answering(move |_| answer.clone());
        let gateway = gateway_and(&stub);
        assert_eq!(get(gateway.listen, "/").status, 502, "{coding}");
    }
}

fn a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let stub = Stub::answering(|_| b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec());
    let gateway = gateway_and(&stub);
    let reply =
        exchange(gateway.listen, &request("GET /", &[("upgrade", "x"), ("connection", "close")], b""));
    assert_eq!(reply.status, 502);
}

/// A dataserver that switches to a protocol of its own: it sends back what it gets, in capitals.
fn shouting() -> Stub {
    Stub::raw(|mut stream| {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        let head = String::from_utf8_lossy(&buffer[..read]).to_ascii_lowercase();
        assert!(head.contains("upgrade: shout\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        let _ = stream.write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\nHELLO ",
        );
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            let _ = stream.write_all(&buffer[..read].to_ascii_uppercase());
        }
    })
}

fn upgraded(gateway: &Apiserver) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
        .write_all(&request("GET /", &[("connection", "keep-alive, Upgrade"), ("upgrade", "shout")], b""))
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101 ")
            && head.contains("upgrade: shout\r\n")
            && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    stream
}

fn rfc9110_7_8_an_upgrade_makes_a_tunnel_both_ways() {
    let stub = shouting();
    let gateway = gateway_and(&stub);
    let mut stream = upgraded(&gateway);
    let mut got = Vec::new();
    for word in ["one ", "two ", "three"] {
        stream.write_all(word.as_bytes()).unwrap();
        pause(Duration::from_millis(20));
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "HELLO ONE TWO THREE");
    // The connection is not used for anything else.
    drop(upgraded(&gateway));
    assert_eq!(stub.connections(), 2);
    eventually("nothing to be under way", || {
        let entry = get(gateway.listen, &format!("/dataservers/{}", stub.addr())).json();
        (entry["in_flight"] == 0).then_some(())
    });
}

fn an_upgrade_that_is_declined_is_an_answer_like_any_other() {
    let stub = Stub::ok("no");
    let gateway = gateway_and(&stub);
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    let stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    for _ in 0..2 {
        (&mut &stream).write_all(&request("GET /", &fields, b"")).unwrap();
        let reply = read_reply(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "no"));
    }
}

fn timeouts_idle_tunnel_ends_a_tunnel() {
    let stub = shouting();
    let gateway = Apiserver::start(&format!("{PATIENT}timeouts: {{idle_tunnel: 500ms}}\n"));
    gateway.announce(&[stub.addr()]);
    let mut stream = upgraded(&gateway);
    let begun = std::time::Instant::now();
    stream.read_to_end(&mut Vec::new()).unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
}

fn a_tunnel_has_the_drain_time_to_end() {
    let stub = shouting();
    let mut gateway = gateway_and(&stub);
    let mut stream = upgraded(&gateway);
    gateway.process.signal("TERM");
    gateway.process.wait_for("drain", |line| line.contains("draining").then_some(()));
    pause(Duration::from_millis(300));
    stream.write_all(b"still here").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "HELLO STILL HERE");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

fn rfc9112_3_2_3_the_authority_form_is_for_connect() {
    refused(b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused(b"GET foo HTTP/1.1\r\nHost: a\r\n\r\n", 400);
}

/// A dataserver that is a way back to the gateway, as a heartbeat with an address of a load balancer makes one.
fn rfc9110_7_6_3_a_request_that_went_through_this_gateway_is_508() {
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

fn an_http10_user_may_keep_the_connection() {
    let stub = Stub::ok("kept");
    let gateway = gateway_and(&stub);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let reply = read_reply(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("kept", Some("keep-alive")));
    }
}

fn unknown_methods_and_statuses_pass() {
    let stub = Stub::answering(|_| b"HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nok".to_vec());
    let gateway = gateway_and(&stub);
    let reply = exchange(gateway.listen, &request("BREW /pot", &[("connection", "close")], b""));
    assert_eq!((reply.status, reply.text().as_str()), (299, "ok"));
    assert_eq!(stub.requests()[0].first, "BREW /pot HTTP/1.1");
    assert!(gateway.metric("gateway_requests_total{method=\"other\",code=\"299\"}") > 0.0);
    let stub = Stub::answering(|_| b"HTTP/1.1 777 Odder\r\ncontent-length: 0\r\n\r\n".to_vec());
    let gateway = gateway_and(&stub);
    assert_eq!(get(gateway.listen, "/").status, 777);
    assert!(
        gateway.metric("gateway_requests_total{method=\"GET\",code=\"599\"}") > 0.0,
        "no standard status"
    );
}

fn pipelined_requests_are_answered_in_order() {
    let stub = Stub::answering(|exchange| {
        let path = exchange.first.split(' ').nth(1).unwrap();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into_bytes()
    });
    let gateway = gateway_and(&stub);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    let requests: Vec<u8> = (0..10).flat_map(|n| request(&format!("GET /{n}"), &[], b"")).collect();
    stream.write_all(&requests).unwrap();
    let mut reader = BufReader::new(stream);
    for n in 0..10 {
        assert_eq!(read_reply(&mut reader, false).unwrap().text(), format!("/{n}"));
    }
}

/// The dataserver sees the first half of a body before the user has sent the second.
fn bodies_stream_up() {
    let (first_half, seen) = mpsc::sync_channel(1);
    let stub = Stub::raw(move |mut stream| {
        let mut got = Vec::new();
        let mut buffer = [0; 1024];
        while !got.ends_with(b"first") {
            let read = stream.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..read]);
        }
        first_half.send(()).unwrap();
        while !got.ends_with(b"second") {
            let read = stream.read(&mut buffer).unwrap();
            got.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let gateway = gateway_and(&stub);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nfirst").unwrap();
    seen.recv_timeout(Duration::from_secs(20)).expect("the first half did not get through by itself");
    stream.write_all(b"second").unwrap();
    assert_eq!(read_reply(&mut BufReader::new(stream), false).unwrap().status, 200);
}

/// The user sees the first half of an answer before the dataserver has sent the second.
fn bodies_stream_down() {
    let (go_on, wait) = mpsc::sync_channel::<()>(1);
    let wait = std::sync::Mutex::new(wait);
    let stub = Stub::raw(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nfirst").unwrap();
        wait.lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(20))
            .expect("the user saw nothing of the first half");
        stream.write_all(b"second").unwrap();
        let _ = stream.read(&mut [0; 1]);
    });
    let gateway = gateway_and(&stub);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    while !got.ends_with(b"first") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0);
        got.extend_from_slice(&buffer[..read]);
    }
    go_on.send(()).unwrap();
    while !got.ends_with(b"second") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0);
        got.extend_from_slice(&buffer[..read]);
    }
}

fn connections_are_kept_on_both_sides() {
    let stub = Stub::ok("kept");
    let gateway = gateway_and(&stub);
    let stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    for _ in 0..50 {
        writer.write_all(&request("GET /", &[], b"")).unwrap();
        assert_eq!(read_reply(&mut reader, false).unwrap().text(), "kept");
    }
    assert_eq!((stub.requests().len(), stub.connections()), (50, 1));

    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec()
    });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    gateway.announce(&[stub.addr()]);
    for _ in 0..20 {
        assert_eq!(get(gateway.listen, "/").text(), "ok");
    }
    assert_eq!(
        (stub.requests().len(), stub.connections()),
        (20, 1),
        "an answer in chunks keeps the connection, too"
    );
}

fn a_large_body_passes_both_ways_unchanged() {
    let stub = Stub::answering(|exchange| {
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", exchange.body.len()).into_bytes();
        answer.extend_from_slice(&exchange.body);
        answer
    });
    let gateway = gateway_and(&stub);
    let mut seed = 7u64;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_be_bytes()[0]
    })
    .take(3_000_000)
    .collect();
    let reply = post(gateway.listen, "/", &body);
    assert!(reply.complete && reply.body == body);
}
