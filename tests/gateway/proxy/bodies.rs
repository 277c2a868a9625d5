//! Bodies on their way through, both ways.

use std::io::{BufReader, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;

use super::gateway_and;
use crate::support::{Apiserver, PATIENT, Stub, get, post, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        bodies_stream_up,
        bodies_stream_down,
        connections_are_kept_on_both_sides,
        a_large_body_passes_both_ways_unchanged,
    ]
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
    let gateway = gateway_and("", &[&stub]);
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
    let gateway = gateway_and("", &[&stub]);
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
    let gateway = gateway_and("", &[&stub]);
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
    let gateway = gateway_and("", &[&stub]);
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
