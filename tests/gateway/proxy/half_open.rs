//! Fault 7: connections to dataservers whose other end is gone without a word. And who must not be taken for gone.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{assert_problem, errors, gateway_and};
use crate::support::h2_stub::{self, Connections};
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, eventually, get, go_deaf, pause, post, read_head, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        faults_7_a_get_on_a_kept_connection_that_is_half_open_is_sent_again,
        faults_7_a_get_whose_dataserver_is_gone_before_it_answered_goes_to_another,
        faults_7_a_post_is_not_sent_again,
        faults_7_an_http2_connection_that_is_half_open_costs_no_get,
        http_44_an_upload_waits_for_a_slow_reader_for_longer_than_for_one_that_is_gone,
        http_46_a_tunnel_waits_for_a_slow_reader_for_longer_than_for_one_that_is_gone,
    ]
}

const QUICK: &str = "timeouts: {unacknowledged: 1s}\n";

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// Answers one request on each connection; of what comes after that on the first `connections` it hears nothing.
fn forgetful(connections: usize) -> Stub {
    let taken = AtomicUsize::new(0);
    Stub::raw(move |stream| {
        let is_forgotten = taken.fetch_add(1, Ordering::SeqCst) < connections;
        let mut reader = BufReader::new(&stream);
        while read_head(&mut reader).is_some() {
            if is_forgotten {
                go_deaf(&stream);
            }
            if (&stream).write_all(OK).is_err() {
                return;
            }
        }
    })
}

/// Takes requests, says nothing and is gone.
fn dying() -> Stub {
    Stub::raw(|stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        go_deaf(&stream);
        let _ = (&stream).read(&mut [0; 1]);
    })
}

/// There is no other dataserver, and to this one a new connection gets through.
fn faults_7_a_get_on_a_kept_connection_that_is_half_open_is_sent_again() {
    let stub = forgetful(1);
    let gateway = gateway_and(&format!("gateway: {{workers: 1}}\n{QUICK}"), &[&stub]);
    assert_eq!(get(gateway.listen, "/").status, 200);
    let begun = Instant::now();
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!((errors(&gateway, &stub, "lost") - 1.0).abs() < 0.1);
    assert!((gateway.metric("gateway_retries_total{reason=\"lost\"}") - 1.0).abs() < 0.1);
    // The connection was at fault, and a probe has shown that.
    eventually("it to be live", || (gateway.state(stub.addr())? == "live").then_some(()));
    assert!(stub.connections() >= 3);
}

/// The request is acknowledged: it is a sign of life that is missing.
fn faults_7_a_get_whose_dataserver_is_gone_before_it_answered_goes_to_another() {
    let (dying, fine) = (dying(), Stub::ok("fine"));
    let gateway = gateway_and(QUICK, &[&dying, &fine]);
    eventually("the dying one to be asked", || {
        assert_eq!(get(gateway.listen, "/").text(), "fine");
        (errors(&gateway, &dying, "lost") > 0.0).then_some(())
    });
}

fn faults_7_a_post_is_not_sent_again() {
    let stub = dying();
    let gateway = gateway_and(QUICK, &[&stub]);
    assert_problem(&post(gateway.listen, "/", b"once"), 504, "http_response_timeout");
    assert!(gateway.metric("gateway_retries_total{reason=\"lost\"}") < 0.1);
}

fn faults_7_an_http2_connection_that_is_half_open_costs_no_get() {
    let forgets = Connections { deaf_at: Some(2), ..Connections::default() };
    let stub = H2Stub::answering(forgets, |_, respond| async move { h2_stub::ok(respond, "again") });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n{QUICK}"));
    gateway.announce_h2c(&[stub.addr()]);
    for _ in 0..2 {
        assert_eq!(get(gateway.listen, "/").text(), "again");
    }
    assert!((gateway.metric("gateway_retries_total{reason=\"lost\"}") - 1.0).abs() < 0.1);
    // Some are probes.
    assert!(stub.connections().0 >= 2);
}

/// Reads the rest when what may be missing for 300 ms has been missing for long.
fn reads_late(stream: &TcpStream, bytes: usize) -> usize {
    pause(Duration::from_secs(2));
    let mut taken = stream.take(bytes as u64);
    usize::try_from(std::io::copy(&mut taken, &mut std::io::sink()).unwrap()).unwrap()
}

const SHORT: &str = "timeouts: {unacknowledged: 300ms}\n";

/// More than its kernel and the gateway's have room for.
const LARGE: usize = 30_000_000;

fn http_44_an_upload_waits_for_a_slow_reader_for_longer_than_for_one_that_is_gone() {
    let stub = Stub::raw(|stream| {
        // Byte by byte: nothing of the body is taken with it.
        while read_head(&mut BufReader::with_capacity(1, &stream)).is_some() {
            let read = reads_late(&stream, LARGE);
            assert_eq!(read, LARGE);
            let _ = (&stream).write_all(OK);
        }
    });
    let gateway = gateway_and(SHORT, &[&stub]);
    assert_eq!(post(gateway.listen, "/", &vec![b'x'; LARGE]).status, 200);
    assert!(errors(&gateway, &stub, "lost") + errors(&gateway, &stub, "closed") < 0.1);
}

fn http_46_a_tunnel_waits_for_a_slow_reader_for_longer_than_for_one_that_is_gone() {
    let (read, wait) = std::sync::mpsc::channel();
    let read = std::sync::Mutex::new(read);
    let stub = Stub::raw(move |stream| {
        if read_head(&mut BufReader::with_capacity(1, &stream)).is_some() {
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
            (&stream).write_all(switch).unwrap();
            read.lock().unwrap().send(reads_late(&stream, LARGE)).unwrap();
        }
    });
    let gateway = gateway_and(SHORT, &[&stub]);
    let mut user = crate::support::connect(gateway.listen);
    user.write_all(&request("GET /", &[("connection", "Upgrade"), ("upgrade", "x")], b"")).unwrap();
    assert!(read_head(&mut BufReader::with_capacity(1, &user)).unwrap().0.contains(" 101 "));
    user.write_all(&vec![b'x'; LARGE]).unwrap();
    assert_eq!(wait.recv_timeout(Duration::from_secs(20)), Ok(LARGE));
}
