//! Row 48: more users than there is room for.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{begin, gateway_and, silent};
use crate::support::{
    Apiserver, PATIENT, Stub, eventually, get, read_reply, request, tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials =
        trials![http_48_limits_in_flight_is_503_at_once, http_48_limits_connections_makes_new_ones_wait,];
    let name = concat!(module_path!(), "::http_48_without_file_descriptors_it_serves_whom_it_can");
    trials.push(trial_with(name, &tools::PRLIMIT, http_48_without_file_descriptors_it_serves_whom_it_can));
    trials
}

fn http_48_limits_in_flight_is_503_at_once() {
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

fn http_48_limits_connections_makes_new_ones_wait() {
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

/// 1,000 users with a limit of 256 file descriptors: those who are connected are served, and when the crowd has left
/// everything is as before within 2 seconds.
fn http_48_without_file_descriptors_it_serves_whom_it_can() {
    let stub = Stub::ok("served");
    let mut gateway = Apiserver::start_with(&format!("{PATIENT}gateway: {{workers: 2}}\n"), |command| {
        let mut limited = std::process::Command::new(tools::PRLIMIT.as_ref().unwrap());
        limited
            .arg("--nofile=256:256")
            .arg(command.get_program())
            .args(command.get_args())
            .env_remove("RUST_LOG");
        *command = limited;
    });
    gateway.announce(&[stub.addr()]);
    let crowd: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let stream = begin(gateway.listen, &request("GET /", &[], b""));
            stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            stream
        })
        .collect();
    // What comes is an answer, from a dataserver or from the gateway; nobody is cut in the middle of one.
    let mut served = 0;
    within(Duration::from_secs(20), "100 of 1,000 served", || {
        served += crowd.iter().filter(|stream| peeked(stream)).count();
        (served >= 100).then_some(())
    });
    let answers: Vec<_> = crowd
        .iter()
        .filter(|stream| peeked(stream))
        .filter_map(|stream| read_reply(&mut BufReader::new(stream), false))
        .collect();
    assert!(
        answers.iter().all(|reply| reply.complete && [200, 502, 503].contains(&reply.status)),
        "{answers:?}"
    );
    assert!(answers.iter().any(|reply| reply.text() == "served"));
    // One that was served is served again while the others wait.
    let known = crowd.iter().find(|stream| {
        let _ = (&mut &**stream).write_all(&request("GET /again", &[], b""));
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        read_reply(&mut BufReader::new(*stream), false).is_some_and(|reply| reply.text() == "served")
    });
    assert!(known.is_some(), "nobody is served any more");
    assert!(gateway.process.is_running(), "it did not survive the crowd");

    let left = Instant::now();
    drop(crowd);
    within(Duration::from_secs(2), "a user to be served after the crowd has left", || {
        let mut stream = begin(gateway.listen, &request("GET /", &[("connection", "close")], b""));
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = stream.flush();
        read_reply(&mut BufReader::new(stream), false).filter(|reply| reply.text() == "served").map(|_| ())
    });
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
    for _ in 0..50 {
        assert_eq!(get(gateway.listen, "/").text(), "served");
    }
    assert!(gateway.process.is_running());
}

/// Whether something has come that was not read yet.
fn peeked(stream: &TcpStream) -> bool {
    stream.peek(&mut [0; 1]).is_ok_and(|read| read > 0)
}
