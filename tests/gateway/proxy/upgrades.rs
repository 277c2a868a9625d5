//! Row 28: a switch of protocols, and the tunnel that it makes.

use std::io::{BufReader, Read, Write};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;

use super::{assert_problem, begin, gateway_and};
use crate::support::{
    Apiserver, PATIENT, Stub, eventually, exchange, get, pause, read_head, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_28_an_upgrade_makes_a_tunnel_both_ways,
        http_28_an_upgrade_that_is_declined_is_an_answer_like_any_other,
        http_28_a_switch_of_protocols_that_nobody_asked_for_is_502,
        http_28_a_switch_in_the_middle_of_a_request_is_502,
        http_46_a_tunnel_may_be_silent_for_longer_than_an_answer,
        http_46_a_tunnels_user_may_pause_for_longer_than_an_answers,
        timeouts_idle_tunnel_ends_a_tunnel,
        timeouts_idle_tunnel_ends_a_tunnel_whose_user_does_not_read,
        http_50_a_tunnel_has_the_drain_time_to_end,
        limits_connections_counts_tunnels,
    ]
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

fn http_28_an_upgrade_makes_a_tunnel_both_ways() {
    let stub = shouting();
    let gateway = gateway_and("", &[&stub]);
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

fn http_28_an_upgrade_that_is_declined_is_an_answer_like_any_other() {
    let stub = Stub::ok("no");
    let gateway = gateway_and("", &[&stub]);
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    let stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    for _ in 0..2 {
        (&mut &stream).write_all(&request("GET /", &fields, b"")).unwrap();
        let reply = read_reply(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "no"));
    }
}

fn http_28_a_switch_of_protocols_that_nobody_asked_for_is_502() {
    let stub = Stub::answering(|_| b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec());
    let gateway = gateway_and("", &[&stub]);
    let reply =
        exchange(gateway.listen, &request("GET /", &[("upgrade", "x"), ("connection", "close")], b""));
    assert_eq!(reply.status, 502);
}

/// What is still to come of the request is not of the other protocol.
fn http_28_a_switch_in_the_middle_of_a_request_is_502() {
    let stub = Stub::raw(|stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        let _ = (&stream)
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n");
        let _ = (&stream).read(&mut [0; 1]);
    });
    let gateway = gateway_and("", &[&stub]);
    let head =
        b"POST / HTTP/1.1\r\nhost: a\r\nupgrade: x\r\nconnection: upgrade\r\ncontent-length: 10\r\n\r\nhalf ";
    let user = begin(gateway.listen, head);
    assert_problem(&read_reply(&mut BufReader::new(&user), false).unwrap(), 502, "http_protocol_error");
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

fn http_50_a_tunnel_has_the_drain_time_to_end() {
    let stub = shouting();
    let mut gateway = gateway_and("", &[&stub]);
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

fn http_46_a_tunnel_may_be_silent_for_longer_than_an_answer() {
    let stub = shouting();
    let gateway =
        gateway_and("timeouts: {response_head: 200ms, idle_body: 200ms, request_head: 200ms}\n", &[&stub]);
    let mut stream = upgraded(&gateway);
    pause(Duration::from_secs(1));
    stream.write_all(b"later").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), "HELLO LATER");
}

/// More than the kernel holds on its way to a user who does not read.
const MUCH: usize = 40_000_000;

/// A dataserver that switches and says much, and whether all of it was taken.
fn talking() -> (Stub, mpsc::Receiver<bool>) {
    let (taken, is_taken) = mpsc::channel();
    let stub = Stub::raw(move |stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";
        let _ = (&stream).write_all(head);
        let _ = taken.send((&stream).write_all(&vec![b'x'; MUCH]).is_ok());
    });
    (stub, is_taken)
}

fn http_46_a_tunnels_user_may_pause_for_longer_than_an_answers() {
    let (stub, _) = talking();
    let gateway = gateway_and("timeouts: {idle_body: 200ms}\n", &[&stub]);
    let mut stream = upgraded(&gateway);
    pause(Duration::from_secs(1));
    let read = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    assert_eq!(read, MUCH as u64);
}

fn timeouts_idle_tunnel_ends_a_tunnel_whose_user_does_not_read() {
    let (stub, is_taken) = talking();
    let gateway = gateway_and("timeouts: {idle_tunnel: 500ms}\n", &[&stub]);
    let stream = upgraded(&gateway);
    let taken = is_taken.recv_timeout(Duration::from_secs(20)).expect("it goes on");
    assert!(!taken, "the kernel holds more than {MUCH} bytes");
    drop(stream);
}

fn limits_connections_counts_tunnels() {
    let config = "limits: {connections: 2}\ngateway: {workers: 1, admin_listen: '127.0.0.1:0'}\n";
    let gateway = gateway_and(config, &[&shouting(), &shouting()]);
    let tunnels = [upgraded(&gateway), upgraded(&gateway)];
    for open in ["gateway_connections{protocol=\"http1\"}", "gateway_worker_connections{worker=\"0\"}"] {
        eventually("both to count", || (gateway.metric(open) > 1.5).then_some(()));
    }
    let mut third = std::net::TcpStream::connect(gateway.listen).unwrap();
    third.write_all(&request("OPTIONS *", &[("max-forwards", "0")], b"")).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(tunnels);
    third.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(read_reply(&mut BufReader::new(&third), false).unwrap().status, 200);
}
