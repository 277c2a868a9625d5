//! Connections and streams: how many there are, and what becomes of requests when they end.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Trial;

use super::{gateway_and, gateway_of, gateway_with};
use crate::support::frames::{Frames, GET, PREFACE, flag, frame as data, hpack, kind};
use crate::support::h2_stub::{Connections, ok};
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, connect, eventually, exchange, get, pause, post, read_body, read_head,
    request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        a_stream_above_a_goaway_goes_on_a_new_connection,
        a_graceful_goaway_costs_nobody_anything,
        a_goaway_is_heard_also_if_the_connection_is_closed_at_once,
        a_post_is_not_sent_twice,
        a_malformed_answer_takes_no_other_request_along,
        an_http1_server_is_no_h2c_one,
        an_upgrade_goes_to_who_can,
        streams_are_bounded,
        small_frames_that_one_user_does_not_read_end_nobody_elses_stream,
        nor_do_answers_whose_users_have_left,
        many_requests_share_few_connections,
        an_idle_connection_is_closed,
        a_dataserver_that_fell_silent_is_found_out_by_a_ping,
        after_a_late_answer_requests_go_on_a_new_connection,
        what_is_spoken_follows_the_heartbeats,
        upstream_protocol_is_the_default,
    ]
}

const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// A frame's head of GOAWAY, stream 0 as the last that was processed, no error.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Reads frames of HTTP/2 after the preface, up to one with a request's head.
fn read_to_headers(stream: &mut impl Read) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 24])?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize])?;
        if head[3] == 1 {
            return Ok(());
        }
    }
}

fn a_stream_above_a_goaway_goes_on_a_new_connection() {
    // The first two connections end with a GOAWAY that leaves out their request; then the same dataserver takes it.
    let taken = Arc::new(AtomicUsize::new(0));
    let (counted, real) = (taken.clone(), H2Stub::ok("taken"));
    let to = real.addr();
    let stub = Stub::raw(move |mut stream| {
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            stream.write_all(&SETTINGS).unwrap();
            read_to_headers(&mut stream).unwrap();
            stream.write_all(&GOAWAY).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
            return;
        }
        let mut onward = std::net::TcpStream::connect(to).unwrap();
        let (mut from, mut back) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut back, &mut stream));
        let _ = std::io::copy(&mut from, &mut onward);
    });
    let gateway = Apiserver::start(PATIENT);
    gateway.announce_h2c(&[stub.addr()]);
    // More than the stub's window: the rest waits for room.
    let whole = vec![b'x'; 66_000];
    let reply = post(gateway.listen, "/", &whole);
    assert_eq!((reply.status, reply.text().as_str()), (200, "taken"));
    assert!(taken.load(Ordering::SeqCst) == 3 && real.requests()[0].body == whole);
    let failures = format!("gateway_upstream_errors_total{{dataserver=\"{}\"", stub.addr());
    assert!(!gateway.metrics().contains(&failures), "{}", gateway.metrics());
}

fn a_graceful_goaway_costs_nobody_anything() {
    let connections = Connections { goaway_after: Some(5), ..Connections::default() };
    let stub = H2Stub::answering(connections, |exchange, respond| async move {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(exchange.body, b"once");
        ok(respond, "once");
    });
    let gateway = gateway_and(&stub);
    let users: Vec<_> = (0..8)
        .map(|_| {
            let to = gateway.listen;
            std::thread::spawn(move || {
                for _ in 0..10 {
                    assert_eq!(post(to, "/", b"once").text(), "once");
                }
            })
        })
        .collect();
    for user in users {
        user.join().unwrap();
    }
    assert_eq!(stub.requests().len(), 80);
    assert!(stub.connections().0 >= 80 / 5 / 4, "{:?}", stub.connections());
}

/// What comes meanwhile is written to a connection that is closed, and that fails before the GOAWAY is read.
fn a_goaway_is_heard_also_if_the_connection_is_closed_at_once() {
    const ROUNDS: usize = 500;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let stub = Stub::raw(move |stream| {
        let mut frames = Frames { stream };
        if frames.stream.read_exact(&mut [0; PREFACE.len()]).is_err() {
            return;
        }
        frames.send(kind::SETTINGS, 0, 0, b"");
        while let Some(frame) = frames.read() {
            if frame.kind == kind::DATA && frame.flags & flag::END_STREAM != 0 {
                let taken = counted.fetch_add(1, Ordering::SeqCst);
                frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x88]);
                pause(Duration::from_micros(10 * (taken as u64 % 50)));
                frames.send(kind::GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
                return;
            }
        }
    });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    gateway.announce_h2c(&[stub.addr()]);
    for round in 0..ROUNDS {
        assert_eq!(post(gateway.listen, "/", b"once").status, 200, "in round {round}");
    }
    assert_eq!(taken.load(Ordering::SeqCst), ROUNDS);
}

fn a_post_is_not_sent_twice() {
    let seen = Arc::new(AtomicUsize::new(0));
    let closing = || {
        let seen = seen.clone();
        Stub::raw(move |mut stream| {
            stream.write_all(&SETTINGS).unwrap();
            if read_to_headers(&mut stream).is_ok() {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let (one, two) = (closing(), closing());
    let gateway = Apiserver::start(PATIENT);
    gateway.announce_h2c(&[one.addr(), two.addr()]);
    let reply = post(gateway.listen, "/", b"once");
    assert_eq!((reply.status, seen.load(Ordering::SeqCst)), (502, 1));
    assert!(reply.header("proxy-status").unwrap().contains("connection_terminated"), "{reply:?}");
    // What is safe is asked for again.
    assert_eq!((get(gateway.listen, "/").status, seen.load(Ordering::SeqCst) > 2), (502, true));
}

/// h2 ends a whole connection for a field whose name has a capital letter.
fn a_malformed_answer_takes_no_other_request_along() {
    const USERS: usize = 20;
    let asked = Arc::new(Mutex::new(Vec::<TcpStream>::new()));
    let asks = asked.clone();
    let malformed = Stub::raw(move |stream| {
        let mut frames = Frames { stream };
        let settings = frames.stream.read_exact(&mut [0; PREFACE.len()]);
        if settings.is_err() || !frames.send(kind::SETTINGS, 0, 0, b"") {
            return;
        }
        while let Some(frame) = frames.read() {
            if frame.kind == kind::HEADERS {
                asks.lock().unwrap().push(frames.stream.try_clone().unwrap());
            }
        }
    });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    gateway.announce_h2c(&[malformed.addr()]);
    let to = gateway.listen;
    let users: Vec<_> = (0..USERS).map(|_| std::thread::spawn(move || get(to, "/"))).collect();
    eventually("all to be there", || (asked.lock().unwrap().len() == USERS).then_some(()));
    let sound = H2Stub::ok("sound");
    gateway.announce_h2c(&[malformed.addr(), sound.addr()]);
    let head = [&[0x88][..], &hpack(&[(b"X-Upper", b"1")])].concat();
    let answer = data(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &head);
    asked.lock().unwrap()[0].write_all(&answer).unwrap();
    for user in users {
        let reply = user.join().unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "sound"));
    }
    // One connection was closed: that is a reason to look, not to send nothing more.
    assert_ne!(gateway.state(malformed.addr()).as_deref(), Some("ejected"));
}

fn an_http1_server_is_no_h2c_one() {
    let http1 = Stub::answering(|_| b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec());
    let closes = Stub::answering(|_| Vec::new());
    for stub in [http1, closes] {
        let gateway = Apiserver::start(PATIENT);
        gateway.announce_h2c(&[stub.addr()]);
        let reply = post(gateway.listen, "/", b"x");
        assert_eq!(reply.status, 502);
        assert!(reply.header("proxy-status").unwrap().contains("http_protocol_error"), "{reply:?}");
        let failures =
            format!("gateway_upstream_errors_total{{dataserver=\"{}\",kind=\"protocol\"}}", stub.addr());
        assert!(gateway.metric(&failures) > 0.0);
        // Nothing of the request was sent there: another one gets it.
        let other = H2Stub::ok("");
        gateway.heartbeat(&format!(r#"{{"addr":"{}","proto":"h2c"}}"#, other.addr()));
        gateway.wait_for_live(&[&stub.addr().to_string(), &other.addr().to_string()]);
        for _ in 0..10 {
            assert_eq!(post(gateway.listen, "/", b"x").status, 200);
        }
    }
    // One that says nothing.
    let silent = Stub::raw(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let gateway = Apiserver::start(&format!("{PATIENT}timeouts: {{connect: 300ms}}\n"));
    gateway.announce_h2c(&[silent.addr()]);
    assert_eq!(get(gateway.listen, "/").status, 504);
}

fn an_upgrade_goes_to_who_can() {
    let (two, one) = (H2Stub::ok("two"), Stub::ok("one"));
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    let gateway = gateway_of(&[&two], &[&one]);
    for _ in 0..20 {
        assert_eq!(exchange(gateway.listen, &request("GET /", &fields, b"")).text(), "one");
    }
    assert!((0..50).any(|_| get(gateway.listen, "/").text() == "two"));
    let reply = exchange(gateway_and(&two).listen, &request("GET /", &fields, b""));
    assert_eq!(
        (reply.status, reply.header("proxy-status").unwrap().contains("http_upgrade_failed")),
        (501, true)
    );
}

/// A stub that answers only when the test lets it.
fn held(connections: Connections) -> (H2Stub, Arc<tokio::sync::Semaphore>) {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opens = gate.clone();
    let stub = H2Stub::answering(connections, move |_, respond| {
        let gate = opens.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            ok(respond, "held");
        }
    });
    (stub, gate)
}

fn streams_are_bounded() {
    let (stub, gate) = held(Connections { max_streams: Some(2), ..Connections::default() });
    let config = "gateway: {workers: 1}\nlimits: {h2c_connections: 2}\n";
    let gateway = gateway_with(config, &stub);
    let to = gateway.listen;
    let ask = || std::thread::spawn(move || post(to, "/", b"x").status);
    let answers: Vec<_> = (0..4).map(|_| ask()).collect();
    eventually("four to be there", || (stub.requests().len() == 4).then_some(()));
    let reply = post(to, "/", b"x");
    assert_eq!((reply.status, stub.requests().len(), stub.connections().0), (503, 4, 2));
    gate.add_permits(1);
    eventually("a free stream", || (gateway.metric("gateway_requests_in_flight") < 4.0).then_some(()));
    let fifth = ask();
    gate.add_permits(100);
    assert!(answers.into_iter().all(|answer| answer.join().unwrap() == 200));
    assert_eq!((fifth.join().unwrap(), stub.connections().0), (200, 2));
}

/// For each frame h2 counts what holding it costs, and ends a connection that costs too much. A connection is many users'.
fn small_frames_that_one_user_does_not_read_end_nobody_elses_stream() {
    const SMALL: usize = 100_000;
    let stub = Stub::raw(|stream| {
        let mut frames = Frames { stream };
        if frames.stream.read_exact(&mut [0; PREFACE.len()]).is_err() {
            return;
        }
        frames.send(kind::SETTINGS, 0, 0, b"");
        let mut asked = Vec::new();
        while let Some(frame) = frames.read() {
            match frame.kind {
                kind::HEADERS => {
                    frames.send(kind::HEADERS, flag::END_HEADERS, frame.stream, &[0x88]);
                    asked.push(frame.stream);
                    if let [_, unread] = asked[..] {
                        let _ = frames.stream.write_all(&data(kind::DATA, 0, unread, b"xx").repeat(SMALL));
                        frames.send(kind::PING, 0, 0, b"all came");
                    }
                }
                kind::PING if frame.payload == b"all came" => {
                    for stream in asked.drain(..).rev() {
                        frames.send(kind::DATA, flag::END_STREAM, stream, b"the end");
                    }
                }
                kind::SETTINGS | kind::PING if frame.flags == 0 => {
                    frames.send(
                        frame.kind,
                        1,
                        0,
                        if frame.kind == kind::PING { &frame.payload } else { b"" },
                    );
                }
                _ => {}
            }
        }
    });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    gateway.announce_h2c(&[stub.addr()]);
    let mut reads = connect(gateway.listen);
    reads.write_all(&request("GET /", &[], b"")).unwrap();
    let mut reads = BufReader::new(reads);
    let (_, headers) = read_head(&mut reads).unwrap();
    // This one's window is closed.
    let mut does_not = Frames::connect(gateway.listen, &[0, 4, 0, 0, 0, 0]);
    does_not.request(1, &GET, false);
    let (body, complete) = read_body(&mut reads, &headers, false);
    assert_eq!((body.escape_ascii().to_string().as_str(), complete), ("the end", true));
    assert_eq!(stub.connections(), 1);
    // And it gets all of its answer, once it reads.
    let window = 1_000_000u32.to_be_bytes();
    does_not.send(kind::WINDOW_UPDATE, 0, 0, &window);
    does_not.send(kind::WINDOW_UPDATE, 0, 1, &window);
    let (mut got, mut ended) = (0, false);
    while !ended {
        let frame = does_not.read().expect("the connection has ended");
        if frame.kind == kind::DATA {
            got += frame.payload.len();
            ended = frame.flags & flag::END_STREAM != 0;
        }
    }
    assert_eq!(got, 2 * SMALL + "the end".len());
}

/// h2 remembers some of the streams that it has reset, for a while. What was still under way of the others it counts as errors, for
/// as long as the connection lasts.
fn nor_do_answers_whose_users_have_left() {
    const USERS: usize = 100;
    const PARTS: usize = 30;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let stub = Stub::raw(move |stream| {
        let mut frames = Frames { stream };
        if frames.stream.read_exact(&mut [0; PREFACE.len()]).is_err() {
            return;
        }
        frames.send(kind::SETTINGS, 0, 0, b"");
        let (mut left, mut parts) = (Vec::new(), 0);
        while let Some(frame) = frames.read() {
            match frame.kind {
                kind::HEADERS => drop(counted.fetch_add(1, Ordering::SeqCst)),
                kind::RST_STREAM if left.len() < USERS => left.push(frame.stream),
                kind::PING if frame.flags != 0 => parts += 1,
                _ => continue,
            }
            if left.len() == USERS && (frame.kind == kind::PING || parts == 0) {
                if parts == PARTS {
                    frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &[0x88]);
                    continue;
                }
                // A part of each answer, and then to know that it was read.
                let part = left.iter().flat_map(|left| data(kind::DATA, 0, *left, &[b'x'; 1000]));
                let _ = frames.stream.write_all(&part.collect::<Vec<_>>());
                frames.send(kind::PING, 0, 0, b"all came");
            }
        }
    });
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    gateway.announce_h2c(&[stub.addr()]);
    let to = gateway.listen;
    let stays = std::thread::spawn(move || post(to, "/", b"once").status);
    eventually("the first to be there", || (asked.load(Ordering::SeqCst) == 1).then_some(()));
    let leave = || {
        let mut leaves = connect(to);
        leaves.write_all(&request("GET /", &[], b"")).unwrap();
        leaves
    };
    let leave: Vec<_> = (0..USERS).map(|_| leave()).collect();
    eventually("all to be there", || (asked.load(Ordering::SeqCst) == 1 + USERS).then_some(()));
    drop(leave);
    assert_eq!((stays.join().unwrap(), stub.connections()), (200, 1));
}

fn many_requests_share_few_connections() {
    let (stub, gate) = held(Connections::default());
    let gateway = gateway_with("gateway: {workers: 1}\n", &stub);
    let to = gateway.listen;
    let answers: Vec<_> = (0..100).map(|_| std::thread::spawn(move || post(to, "/", b"x").status)).collect();
    eventually("all to be there", || (stub.requests().len() == 100).then_some(()));
    assert_eq!(stub.connections(), (1, 0));
    gate.add_permits(1000);
    assert!(answers.into_iter().all(|answer| answer.join().unwrap() == 200));
}

fn an_idle_connection_is_closed() {
    let stub = H2Stub::ok("");
    let gateway = gateway_with("timeouts: {pool_idle: 200ms}\n", &stub);
    assert_eq!(get(gateway.listen, "/").status, 200);
    eventually("its end", || (stub.connections() == (1, 1)).then_some(()));
    assert_eq!(get(gateway.listen, "/").status, 200);
}

fn a_dataserver_that_fell_silent_is_found_out_by_a_ping() {
    const HEAD_200: [u8; 10] = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
    let stub = Stub::raw(|mut stream| {
        // The gateway closes a connection that nobody needs any more, and what it has asked may still be on its way.
        let answered = stream
            .write_all(&SETTINGS)
            .and_then(|()| read_to_headers(&mut stream))
            .and_then(|()| stream.write_all(&HEAD_200));
        if answered.is_ok() {
            let _ = stream.read_to_end(&mut Vec::new()); // pings too
        }
    });
    let timeouts = "timeouts: {upstream_ping: 200ms, response_head: 300ms, idle_body: 1h}\n";
    let gateway = Apiserver::start(&format!("{PATIENT}{timeouts}"));
    gateway.announce_h2c(&[stub.addr()]);
    let reply = exchange(gateway.listen, &request("GET /", &[], b""));
    assert_eq!((reply.status, reply.complete), (200, false));
    // It was the dataserver that failed, not the user who gave up.
    let failures = format!("gateway_upstream_errors_total{{dataserver=\"{}\",kind=\"body\"}}", stub.addr());
    assert!(gateway.metric(&failures) > 0.0);
}

fn after_a_late_answer_requests_go_on_a_new_connection() {
    let (stub, gate) = held(Connections::default());
    let gateway = gateway_with("gateway: {workers: 1}\ntimeouts: {response_head: 1s}\n", &stub);
    assert_eq!(post(gateway.listen, "/", b"x").status, 504);
    gate.add_permits(100);
    assert_eq!(post(gateway.listen, "/", b"x").status, 200);
    assert_eq!(stub.connections().0, 2);
}

fn what_is_spoken_follows_the_heartbeats() {
    let stub = Stub::ok("one");
    let gateway = Apiserver::start(PATIENT);
    let speaks = |heartbeat: &str, protocol: &str| {
        gateway.heartbeat(heartbeat);
        eventually(protocol, || {
            let entries = get(gateway.listen, "/dataservers").json();
            (entries["dataservers"][0]["protocol"] == protocol).then_some(())
        });
    };
    let addr = stub.addr();
    gateway.announce_h2c(&[addr]);
    assert_eq!(get(gateway.listen, "/").status, 502);
    speaks(&addr.to_string(), "http/1.1");
    assert_eq!(get(gateway.listen, "/").text(), "one");
    speaks(&format!(r#"{{"addr":"{addr}","proto":"h2c"}}"#), "h2c");
    assert_eq!(get(gateway.listen, "/").status, 502);
    speaks(&format!(r#"{{"addr":"{addr}","proto":"http/1.1"}}"#), "http/1.1");
    assert_eq!(get(gateway.listen, "/").text(), "one");
    gateway.heartbeat(&format!(r#"{{"addr":"{addr}","proto":"spdy"}}"#));
    let refused = "gateway_heartbeats_total{result=\"refused_proto\"}";
    eventually("a refusal", || (gateway.metric(refused) > 0.0).then_some(()));
}

fn upstream_protocol_is_the_default() {
    let stub = H2Stub::ok("two");
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{upstream_protocol: h2c}}\n"));
    gateway.announce(&[stub.addr()]);
    assert_eq!(get(gateway.listen, "/").text(), "two");
}
