//! Rows 43 and 45 to 47: how long things may take, with limits that a test can wait for.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{assert_problem, begin, errors, gateway_and, silent};
use crate::support::frames::{Frames, GET, flag, hpack, kind};
use crate::support::{Apiserver, PATIENT, Reply, Stub, get, pause, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        http_43_a_head_that_was_begun_gets_408,
        http_43_a_connection_without_a_request_ends_without_a_word,
        http_43_over_http2_too,
        http_43_an_idle_http2_connection_ends_though_it_answers_pings,
        http_45_a_dataserver_that_does_not_take_connections_is_passed_over,
        http_45_nobody_takes_connections_is_504,
        http_46_a_dataserver_that_does_not_answer_is_504,
        http_46_an_upload_that_moves_is_not_too_slow,
        http_46_a_pause_of_the_user_is_not_the_dataservers_fault,
        http_47_timeouts_pool_idle_closes_from_this_side,
        http_47_a_kept_connection_that_was_closed_meanwhile_costs_nobody_a_request,
    ]
}

fn http_46_a_dataserver_that_does_not_answer_is_504() {
    let stub = silent();
    let gateway = gateway_and("timeouts: {response_head: 500ms}\n", &[&stub]);
    let begun = Instant::now();
    assert_problem(&get(gateway.listen, "/"), 504, "http_response_timeout");
    assert!(begun.elapsed() >= Duration::from_millis(500) && begun.elapsed() < Duration::from_secs(5));
    assert!(errors(&gateway, &stub, "head_timeout") > 0.0);
}

/// The time for an answer counts from when the request was sent, not from when it began.
fn http_46_an_upload_that_moves_is_not_too_slow() {
    let stub = Stub::ok("got it");
    let gateway = gateway_and("timeouts: {response_head: 600ms}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").unwrap();
    for _ in 0..10 {
        pause(Duration::from_millis(150));
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(read_reply(&mut BufReader::new(stream), false).unwrap().text(), "got it");
}

fn http_46_a_pause_of_the_user_is_not_the_dataservers_fault() {
    let stub = Stub::ok("got it");
    let gateway = gateway_and("timeouts: {response_head: 300ms, idle_body: 10s}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nx").unwrap();
    pause(Duration::from_millis(1200));
    stream.write_all(b"y").unwrap();
    assert_eq!(read_reply(&mut BufReader::new(stream), false).unwrap().text(), "got it");
    assert!(errors(&gateway, &stub, "head_timeout") < 1.0);
}

fn http_47_timeouts_pool_idle_closes_from_this_side() {
    let (closed, when) = std::sync::mpsc::channel();
    let closed = std::sync::Mutex::new(closed);
    let stub = Stub::raw(move |mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        let answered = Instant::now();
        if stream.read(&mut [0; 1]).is_ok_and(|read| read == 0) {
            let _ = closed.lock().unwrap().send(answered.elapsed());
        }
    });
    let gateway = gateway_and("timeouts: {pool_idle: 400ms}\n", &[&stub]);
    assert_eq!(get(gateway.listen, "/").status, 200);
    let idle = when.recv_timeout(Duration::from_secs(10)).expect("not closed");
    assert!(idle >= Duration::from_millis(390) && idle < Duration::from_secs(3), "{idle:?}");
}

fn http_47_a_kept_connection_that_was_closed_meanwhile_costs_nobody_a_request() {
    // Every connection takes one request, and is closed a little later.
    let stub = Stub::raw(|mut stream| {
        if stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            pause(Duration::from_millis(5));
        }
    });
    let gateway = gateway_and("", &[&stub]);
    for _ in 0..100 {
        assert_eq!(get(gateway.listen, "/").text(), "ok");
        pause(Duration::from_millis(8));
    }
}

const HEAD_LIMIT: &str = "timeouts: {request_head: 700ms}\n";

/// Sends something at once and something else again and again, until the gateway closes; returns what it said.
#[track_caller]
fn until_closed(to: SocketAddr, first: &[u8], then: &[u8]) -> Vec<u8> {
    let mut stream = begin(to, first);
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    let mut got = Vec::new();
    loop {
        let _ = stream.write(then);
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => got.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "still open after {}", super::shown(first));
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(500), "{took:?} after {}", super::shown(first));
    got
}

/// The last answer of those that came, by way of its bytes.
fn answer(bytes: &[u8]) -> Option<Reply> {
    read_reply(&mut BufReader::new(bytes), false)
}

fn http_43_a_head_that_was_begun_gets_408() {
    let stub = Stub::ok("");
    let gateway = gateway_and(HEAD_LIMIT, &[&stub]);
    for (first, then) in [
        (&b"G"[..], &b""[..]),
        (b"GET / HT", b""),
        (b"GET / HTTP/1.1\r\nhost: a\r\n", b""),
        (b"GET / HTTP/1.1\r\nx: ", b"y"),
        (b"GET / HTTP/1.1\r\n", b"x: y\r\n"),
        // As HTTP/2 begins, too.
        (b"PR", b""),
        (b"PRI * HT", b""),
    ] {
        let got = until_closed(gateway.listen, first, then);
        let shown = super::shown(first);
        let reply = answer(&got).unwrap_or_else(|| panic!("no answer after {shown}"));
        assert_problem(&reply, 408, "http_request_");
        assert_eq!(reply.header("connection"), Some("close"), "{shown}");
    }
    // Behind an answer as well.
    let got = until_closed(gateway.listen, &[&request("GET /", &[], b"")[..], b"GET /"].concat(), b"");
    let mut reader = BufReader::new(&got[..]);
    assert_eq!(read_reply(&mut reader, false).unwrap().status, 200);
    assert_problem(&read_reply(&mut reader, false).expect("no 408 behind an answer"), 408, "http_request_");
}

fn http_43_a_connection_without_a_request_ends_without_a_word() {
    let stub = Stub::ok("");
    let gateway = gateway_and(HEAD_LIMIT, &[&stub]);
    assert_eq!(until_closed(gateway.listen, b"", b""), b"");
    let got = until_closed(gateway.listen, &request("GET /", &[], b""), b"");
    let mut reader = BufReader::new(&got[..]);
    assert_eq!(read_reply(&mut reader, false).unwrap().status, 200);
    assert!(read_reply(&mut reader, false).is_none(), "{}", super::shown(&got));
    // Empty lines before a request are no request (RFC 9112 §2.2), and not without end either.
    until_closed(gateway.listen, b"\r\n", b"\r\n");
}

/// A connection on which nothing is asked, and a head that never ends.
fn http_43_over_http2_too() {
    let stub = Stub::ok("");
    let gateway = gateway_and(HEAD_LIMIT, &[&stub]);
    let limit = Duration::from_secs(10);
    let mut silent = Frames::connect(gateway.listen, b"");
    assert!(silent.is_ended_within(limit), "a connection without a request is still open");
    let mut begun = Frames::connect(gateway.listen, b"");
    begun.send(kind::HEADERS, flag::END_STREAM, 1, &hpack(&GET));
    assert!(begun.is_ended_within(limit), "a head that does not end is still waited for");
    until_closed(gateway.listen, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"");
}

/// `timeouts.request_head` is how long a connection may be idle, and a client that is alive can be idle.
fn http_43_an_idle_http2_connection_ends_though_it_answers_pings() {
    let stub = Stub::ok("");
    let gateway = gateway_and(HEAD_LIMIT, &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    frames.request(1, &GET, false);
    frames.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let begun = Instant::now();
    while let Some(frame) = frames.read() {
        if frame.kind == kind::PING && frame.flags == 0 {
            frames.send(kind::PING, 1, 0, &frame.payload);
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "still open");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing came, and no end either");
}

/// An address at which connections are neither taken nor refused: the kernel's queue is full.
struct Blackhole {
    listener: socket2::Socket,
    _queued: Vec<socket2::Socket>,
}

impl Blackhole {
    fn new() -> Self {
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let listener = new();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let fill = || {
            let queued = new();
            let _ = queued.connect_timeout(&addr, Duration::from_millis(200));
            queued
        };
        let queued = (0..4).map(|_| fill()).collect();
        Self { listener, _queued: queued }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap().as_socket().unwrap()
    }
}

fn http_45_a_dataserver_that_does_not_take_connections_is_passed_over() {
    let (hole, stub) = (Blackhole::new(), Stub::ok("fine"));
    let gateway = Apiserver::start(&format!("{PATIENT}timeouts: {{connect: 200ms}}\n"));
    gateway.announce(&[hole.addr(), stub.addr()]);
    let begun = Instant::now();
    for n in 0..20 {
        let reply = if n % 2 == 0 {
            get(gateway.listen, "/")
        } else {
            crate::support::post(gateway.listen, "/", b"x")
        };
        assert_eq!(reply.text(), "fine");
    }
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert!(gateway.metric("gateway_retries_total{reason=\"connect_timeout\"}") > 0.0);
}

fn http_45_nobody_takes_connections_is_504() {
    let hole = Blackhole::new();
    let gateway = Apiserver::start(&format!("{PATIENT}timeouts: {{connect: 200ms}}\n"));
    gateway.announce(&[hole.addr()]);
    assert_problem(&get(gateway.listen, "/"), 504, "connection_timeout");
}
