//! Connections on both sides: spread over the workers, and kept for the next request.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libtest_mimic::Trial;

use super::gateway_and;
use crate::support::{Apiserver, Stub, connect, eventually, get, pause, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        a_few_long_connections_do_not_share_one_worker,
        no_more_idle_connections_are_kept_than_limits_pool,
        idle_connections_to_a_dataserver_that_left_are_closed,
        a_client_that_asks_much_at_once_closes_no_idle_connection,
        a_connection_is_free_when_its_answer_was_read_though_the_user_has_yet_to_read_it,
    ]
}

fn ask(stream: &TcpStream) {
    (&mut &*stream).write_all(&request("GET /", &[], b"")).unwrap();
    is_answered(stream);
}

#[track_caller]
fn is_answered(stream: &TcpStream) {
    assert_eq!(read_reply(&mut BufReader::new(stream), false).unwrap().status, 200);
}

fn a_few_long_connections_do_not_share_one_worker() {
    let gateway = gateway_and("gateway: {workers: 3, admin_listen: '127.0.0.1:0'}\n", &[&Stub::ok("")]);
    let held: Vec<_> = (0..6).map(|_| connect(gateway.listen)).collect();
    held.iter().for_each(ask);
    let on = |worker| gateway.metric(&format!("gateway_worker_connections{{worker=\"{worker}\"}}"));
    eventually("each worker to have some", || {
        let counts = [on(0), on(1), on(2)];
        let (least, most) = counts.iter().fold((f64::MAX, 0.0_f64), |(a, b), n| (a.min(*n), b.max(*n)));
        (counts.iter().sum::<f64>() > 5.5 && least > 0.5 && most < 4.5).then_some(())
    });
    // Those that were handed on are served as well as the others.
    held.iter().for_each(ask);
}

/// A dataserver that knows how many connections to it are open.
fn counting() -> (Stub, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    let stub = Stub::raw(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {
            pause(std::time::Duration::from_millis(100)); // so that requests overlap
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                break;
            }
        }
        counted.fetch_sub(1, Ordering::SeqCst);
    });
    (stub, open)
}

/// So that the gateway has more than two connections to the stub.
fn ask_at_once(gateway: &Apiserver, stub: &Stub) {
    let users: Vec<_> = (0..8).map(|_| connect(gateway.listen)).collect();
    for mut user in &users {
        user.write_all(&request("GET /", &[], b"")).unwrap();
    }
    users.iter().for_each(is_answered);
    assert!(stub.connections() > 2, "the requests did not overlap");
}

fn no_more_idle_connections_are_kept_than_limits_pool() {
    let (stub, open) = counting();
    let config = "limits: {pool: 2}\ntimeouts: {pool_idle: 1h}\ngateway: {workers: 1}\n";
    let gateway = gateway_and(config, &[&stub]);
    ask_at_once(&gateway, &stub);
    eventually("the others to be closed", || (open.load(Ordering::SeqCst) == 2).then_some(()));
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert_eq!(open.load(Ordering::SeqCst), 2);
}

fn idle_connections_to_a_dataserver_that_left_are_closed() {
    let (stub, open) = counting();
    // The pool is looked after every quarter of `pool_idle`.
    let config =
        "registry: {ttl: 1s, sweep_interval: 100ms}\ntimeouts: {pool_idle: 30s}\ngateway: {workers: 1}\n";
    let gateway = Apiserver::start(config);
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").status, 200);
    eventually("it to leave", || (get(gateway.listen, "/").status == 503).then_some(()));
    eventually("its connections to be closed", || (open.load(Ordering::SeqCst) == 0).then_some(()));
}

/// A task that has done much in one go is told by tokio that nothing is ready, whatever is: that says nothing of a connection.
fn a_client_that_asks_much_at_once_closes_no_idle_connection() {
    let (stub, open) = counting();
    let gateway = gateway_and("timeouts: {pool_idle: 1h}\ngateway: {workers: 1}\n", &[&stub]);
    ask_at_once(&gateway, &stub);
    // The gateway answers these by itself. It is let do some 128 things in one go.
    let by_itself = request("OPTIONS *", &[("max-forwards", "0")], b"");
    for count in 120..=132 {
        let mut user = connect(gateway.listen);
        user.write_all(&[by_itself.repeat(count), request("GET /", &[], b"")].concat()).unwrap();
        let mut answers = BufReader::new(&user);
        for _ in 0..=count {
            assert_eq!(read_reply(&mut answers, false).unwrap().status, 200);
        }
        assert_eq!(open.load(Ordering::SeqCst), stub.connections(), "after {count}");
    }
}

fn a_connection_is_free_when_its_answer_was_read_though_the_user_has_yet_to_read_it() {
    let answer = [&b"HTTP/1.1 200 OK\r\ncontent-length: 40000\r\n\r\n"[..], &vec![b'x'; 40_000]].concat();
    let stub = Stub::answering(move |_| answer.clone());
    let gateway = gateway_and("gateway: {workers: 1, admin_listen: '127.0.0.1:0'}\n", &[&stub]);
    let mut user = connect(gateway.listen);
    // More than both kernels have room for, and one of them waits in the gateway.
    user.write_all(&request("GET /", &[], b"").repeat(1000)).unwrap();
    eventually("the answers to find no room", || {
        let before = stub.requests().len();
        pause(std::time::Duration::from_millis(200));
        (before > 0 && stub.requests().len() == before).then_some(())
    });
    let shown = || get(gateway.admin.unwrap(), &format!("/dataservers/{}", stub.addr())).json();
    assert!(gateway.metric("gateway_requests_in_flight") > 0.5);
    assert_eq!(shown()["in_flight"], 0);
    assert_eq!(get(gateway.listen, "/").body.len(), 40_000);
    assert_eq!(stub.connections(), 1, "the one that there was could have been used");
}
