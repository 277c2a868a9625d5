//! Every limit and timeout of the data plane, with a value that a test can wait for.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::support::{
    Apiserver, PATIENT, Stub, eventually, exchange, get, pause, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        limits_head_bytes_is_431,
        limits_headers_is_431,
        limits_in_flight_is_503_at_once,
        limits_connections_makes_new_ones_wait,
        timeouts_request_head_closes_a_silent_and_a_trickling_head,
        timeouts_pool_idle_closes_from_this_side,
        timeouts_drain_lets_requests_end_and_cuts_off_those_that_do_not,
        a_reader_that_stops_is_cut_off,
        faults_26_what_was_sent_before_the_signal_is_answered,
        a_kept_connection_is_told_to_close_when_the_gateway_drains,
    ]
}

fn gateway_and(config: &str, stubs: &[&Stub]) -> Apiserver {
    let gateway = Apiserver::start(&format!("{PATIENT}{config}"));
    gateway.announce(&stubs.iter().map(|stub| stub.addr()).collect::<Vec<_>>());
    gateway
}

fn silent() -> Stub {
    Stub::raw(|mut stream| while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {})
}

fn limits_head_bytes_is_431() {
    let stub = Stub::ok("");
    let gateway = gateway_and("limits: {head_bytes: 8192}\n", &[&stub]);
    let fits = "x".repeat(7000);
    assert_eq!(
        exchange(gateway.listen, &request("GET /", &[("x", &fits), ("connection", "close")], b"")).status,
        200
    );
    let too_long = "x".repeat(9000);
    let reply = exchange(gateway.listen, &request("GET /", &[("x", &too_long)], b""));
    assert!(reply.status == 431, "{}", reply.status);
    assert_eq!(stub.requests().len(), 1);
}

fn limits_headers_is_431() {
    let stub = Stub::ok("");
    let gateway = gateway_and("limits: {headers: 10}\n", &[&stub]);
    let fields = vec![("x", "1"); 8];
    assert_eq!(
        exchange(gateway.listen, &request("GET /", &[&fields[..], &[("connection", "close")]].concat(), b""))
            .status,
        200
    );
    assert_eq!(exchange(gateway.listen, &request("GET /", &[("x", "1"); 20], b"")).status, 431);
}

fn limits_in_flight_is_503_at_once() {
    let stub = silent();
    let gateway = gateway_and("limits: {in_flight: 3}\ngateway: {workers: 1}\n", &[&stub]);
    let mut held = Vec::new();
    for n in 1..=3 {
        let mut stream = TcpStream::connect(gateway.listen).unwrap();
        stream.write_all(&request("GET /", &[], b"")).unwrap();
        held.push(stream);
        eventually("it to be under way", || {
            (gateway.metric("gateway_requests_in_flight") >= f64::from(n)).then_some(())
        });
    }
    let reply = get(gateway.listen, "/");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    drop(held);
    eventually("room", || (gateway.metric("gateway_requests_in_flight") < 1.0).then_some(()));
}

fn limits_connections_makes_new_ones_wait() {
    let stub = Stub::ok("");
    let gateway = gateway_and(
        "limits: {connections: 2}\ngateway: {workers: 1, admin_listen: '127.0.0.1:0'}\n",
        &[&stub],
    );
    let ask = |stream: &TcpStream| {
        (&mut &*stream).write_all(&request("GET /", &[], b"")).unwrap();
        read_reply(&mut BufReader::new(stream), false)
    };
    let held: Vec<_> = (0..2).map(|_| TcpStream::connect(gateway.listen).unwrap()).collect();
    assert!(held.iter().all(|stream| ask(stream).is_some()));
    let third = TcpStream::connect(gateway.listen).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(ask(&third).is_none(), "served though two are open");
    drop(held);
    third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(read_reply(&mut BufReader::new(&third), false).unwrap().status, 200);
}

fn timeouts_request_head_closes_a_silent_and_a_trickling_head() {
    let stub = Stub::ok("");
    let gateway = gateway_and("timeouts: {request_head: 700ms}\n", &[&stub]);
    let closed = |first: &[u8], then: &[u8]| {
        let mut stream = TcpStream::connect(gateway.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        stream.write_all(first).unwrap();
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
            assert!(begun.elapsed() < Duration::from_secs(10), "still open");
        }
        (begun.elapsed(), got)
    };
    // Silent from the start; after a part of a head; one byte at a time; after a request.
    for (first, then) in [
        (&b""[..], &b""[..]),
        (b"GET / HT", b""),
        (b"GET / HTTP/1.1\r\nx: ", b"y"),
        (b"PRI * HT", b""),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b""),
    ] {
        let (took, _) = closed(first, then);
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(5), "{took:?} for {first:?}");
    }
}

fn timeouts_pool_idle_closes_from_this_side() {
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

/// A dataserver that answers after a while.
fn slow(delay: Duration) -> Stub {
    Stub::answering(move |_| {
        pause(delay);
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_vec()
    })
}

fn timeouts_drain_lets_requests_end_and_cuts_off_those_that_do_not() {
    let stub = slow(Duration::from_millis(800));
    let mut gateway = gateway_and("timeouts: {drain: 10s}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("it to be under way", || (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(()));
    gateway.process.signal("TERM");
    let reply = read_reply(&mut BufReader::new(stream), false).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "slow"));
    assert_eq!(gateway.process.wait().code(), Some(0));

    let stub = silent();
    let mut gateway = gateway_and("timeouts: {drain: 500ms}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("it to be under way", || (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(()));
    let begun = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(gateway.process.output().contains("cut off"), "{}", gateway.process.output());
}

fn a_kept_connection_is_told_to_close_when_the_gateway_drains() {
    let stub = slow(Duration::from_millis(500));
    let mut gateway = gateway_and("", &[&stub]);
    let idle = TcpStream::connect(gateway.listen).unwrap();
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("it to be under way", || (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(()));
    gateway.process.signal("TERM");
    let reply = read_reply(&mut BufReader::new(stream), false).unwrap();
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!((&idle).read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// Connections and requests that came in just before the gateway was told to stop, some not accepted yet.
fn faults_26_what_was_sent_before_the_signal_is_answered() {
    for _ in 0..5 {
        let stub = Stub::ok("answered");
        let mut gateway = gateway_and("", &[&stub]);
        let streams: Vec<_> = (0..50)
            .map(|_| {
                let mut stream = TcpStream::connect(gateway.listen).unwrap();
                stream.write_all(&request("GET /", &[], b"")).unwrap();
                stream
            })
            .collect();
        gateway.process.signal("TERM");
        for stream in streams {
            assert_eq!(read_reply(&mut BufReader::new(stream), false).expect("no answer").text(), "answered");
        }
        assert_eq!(gateway.process.wait().code(), Some(0));
    }
}

fn a_reader_that_stops_is_cut_off() {
    let stub = Stub::raw(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        while stream.write_all(&[b'x'; 16384]).is_ok() {}
    });
    let gateway = gateway_and("timeouts: {idle_body: 500ms}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    eventually("it to be under way", || (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(()));
    eventually("it to be cut off", || (gateway.metric("gateway_requests_in_flight") < 1.0).then_some(()));
    drop(stream);
}
