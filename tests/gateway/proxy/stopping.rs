//! Row 50: the gateway that is told to stop.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use socket2::SockRef;

use super::leaving::{HALF, Waiting};
use super::{gateway_and, is_over, silent, slow, wait_for_in_flight};
use crate::support::frames::{Ended, Field, Frames, GET, kind};
use crate::support::{
    Apiserver, Reply, Stub, connect, eventually, get, pause, read_head, read_reply, request, trials, within,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_50_timeouts_drain_lets_requests_end_and_cuts_off_those_that_do_not,
        http_50_a_kept_connection_is_told_to_close_when_the_gateway_drains,
        http_50_what_was_sent_before_the_signal_is_answered,
        http_50_an_http2_connection_is_told_goaway,
        http_50_the_deadline_holds_with_a_stream_that_is_stuck,
        http_50_whoever_has_asked_nothing_for_a_while_may_ask_once_more,
        http_50_who_has_just_been_answered_may_ask_once_more,
        http_50_who_asks_once_more_than_it_may_has_its_last_answer_whole,
        http_50_who_waits_for_a_place_is_served,
        http_50_every_connection_that_came_into_being_is_answered,
        http_50_a_stream_that_crosses_the_goaway_is_answered,
        http_50_a_user_of_http2_who_is_gone_holds_nothing_up,
        http_50_a_stream_that_comes_late_is_answered_whatever_its_user_says,
        http_50_the_rest_of_an_http2_answer_comes_when_its_user_has_room,
        http_50_an_http2_answer_is_whole_though_its_user_has_said_more,
        timeouts_lame_duck_serves_on_and_is_not_ready,
    ]
}

fn http_50_timeouts_drain_lets_requests_end_and_cuts_off_those_that_do_not() {
    let stub = slow(Duration::from_millis(800));
    let mut gateway = gateway_and("timeouts: {drain: 10s}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    wait_for_in_flight(&gateway, 1);
    gateway.process.signal("TERM");
    let reply = read_reply(&mut BufReader::new(stream), false).unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "slow"));
    assert_eq!(gateway.process.wait().code(), Some(0));

    let stub = silent();
    let mut gateway = gateway_and("timeouts: {drain: 500ms}\n", &[&stub]);
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    wait_for_in_flight(&gateway, 1);
    let begun = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(gateway.process.output().contains("cut off"), "{}", gateway.process.output());
}

/// Bytes that do not fit into what a user who does not read makes room for.
const LARGE: usize = 300_000;

/// Answers with so many after a while.
fn slow_and_large() -> Stub {
    Stub::answering(|_| {
        pause(Duration::from_millis(500));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        [head.as_bytes(), &vec![b'a'; LARGE]].concat()
    })
}

/// Its request meets a connection that is about to close, with an answer that it has not read yet.
fn http_50_who_asks_once_more_than_it_may_has_its_last_answer_whole() {
    let stub = slow_and_large();
    let mut gateway = gateway_and("", &[&stub]);
    let user = connect(gateway.listen);
    SockRef::from(&user).set_recv_buffer_size(8 * 1024).unwrap();
    (&user).write_all(&request("GET /", &[], b"")).unwrap();
    wait_for_in_flight(&gateway, 1);
    gateway.process.signal("TERM");
    user.peek(&mut [0; 1]).unwrap();
    pause(Duration::from_millis(200)); // for the rest of it
    (&user).write_all(&request("GET /", &[], b"")).unwrap();
    pause(Duration::from_millis(200)); // for that to arrive
    let reply = read_reply(&mut BufReader::new(&user), false).unwrap();
    assert_eq!((reply.body.len(), reply.complete, reply.header("connection")), (LARGE, true, Some("close")));
    drop(user);
    assert_eq!(gateway.process.wait().code(), Some(0));
}

fn http_50_a_kept_connection_is_told_to_close_when_the_gateway_drains() {
    let stub = slow(Duration::from_millis(500));
    let mut gateway = gateway_and("", &[&stub]);
    let idle = TcpStream::connect(gateway.listen).unwrap();
    let mut stream = TcpStream::connect(gateway.listen).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    wait_for_in_flight(&gateway, 1);
    gateway.process.signal("TERM");
    let reply = read_reply(&mut BufReader::new(stream), false).unwrap();
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!((&idle).read(&mut [0; 1]).unwrap(), 0, "an idle connection is closed");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// Connections and requests that came in just before the gateway was told to stop, some not accepted yet.
fn http_50_what_was_sent_before_the_signal_is_answered() {
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

fn http_50_an_http2_connection_is_told_goaway() {
    let stub = slow(Duration::from_millis(500));
    let mut gateway = gateway_and("", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    frames.request(1, &GET, false);
    wait_for_in_flight(&gateway, 1);
    gateway.process.signal("TERM");
    let (mut gone_away, mut body) = (false, Vec::new());
    while let Some(frame) = frames.read() {
        match frame.kind {
            kind::GOAWAY => {
                assert_eq!(frame.payload[4..8], [0; 4], "an error: {frame:?}");
                gone_away = true;
            }
            kind::DATA => body.extend(frame.payload),
            kind::PING if frame.flags == 0 => {
                frames.send(kind::PING, 1, 0, &frame.payload);
            }
            _ => {}
        }
    }
    assert!(gone_away && body == b"slow", "{gone_away} {body:?}");
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// An answer that is never read, a body that never ends, a head that never comes: none holds the end up.
fn http_50_the_deadline_holds_with_a_stream_that_is_stuck() {
    let waiting = Waiting::new(HALF);
    let mut gateway = gateway_and("timeouts: {drain: 1s}\n", &[&waiting.stub]);
    let mut frames = Frames::connect(gateway.listen, &[0, 4, 0, 0, 0, 0]);
    frames.request(1, &GET, false);
    let post: [Field<'_>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")];
    frames.request(3, &post, true);
    waiting.wait_for(2);
    let begun = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(gateway.process.output().contains("cut off"), "{}", gateway.process.output());
}

/// A gateway that is told to stop, from the moment when it takes no more connections.
#[track_caller]
fn drain(gateway: &Apiserver) {
    gateway.process.signal("TERM");
    gateway.process.wait_for("drain", |line| line.contains("\"draining\"").then_some(()));
}

fn reply_on(stream: &TcpStream) -> Option<Reply> {
    read_reply(&mut BufReader::new(stream), false)
}

/// Asks on an open connection.
#[track_caller]
fn ask(stream: &TcpStream) -> Reply {
    (&mut &*stream).write_all(&request("GET /", &[], b"")).unwrap();
    reply_on(stream).expect("no answer")
}

/// Its request may be on its way: a new connection as well as one that was used before.
fn http_50_whoever_has_asked_nothing_for_a_while_may_ask_once_more() {
    let stub = Stub::ok("answered");
    let mut gateway = gateway_and("timeouts: {drain_idle: 3s}\n", &[&stub]);
    let (new, used) = (connect(gateway.listen), connect(gateway.listen));
    assert_eq!(ask(&used).header("connection"), None);
    drain(&gateway);
    pause(Duration::from_millis(300));
    for stream in [new, used] {
        let reply = ask(&stream);
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("answered", Some("close")));
        assert!(is_over(&mut BufReader::new(stream)));
    }
    // Nobody else is waited for.
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert_eq!(gateway.process.count("cut off"), 0);
}

/// The time for one more request begins when the answer has ended whose head could not yet say that it is the last.
fn http_50_who_has_just_been_answered_may_ask_once_more() {
    let more = Arc::new(AtomicBool::new(false));
    let goes_on = more.clone();
    let stub = Stub::raw(move |mut stream| {
        while read_head(&mut BufReader::new(&stream)).is_some() {
            stream.write_all(HALF).unwrap();
            eventually("the end of the answer", || goes_on.load(Ordering::SeqCst).then_some(()));
            stream.write_all(&[b'x'; 995]).unwrap();
        }
    });
    let mut gateway = gateway_and("timeouts: {drain_idle: 500ms}\n", &[&stub]);
    let stream = connect(gateway.listen);
    (&mut &stream).write_all(&request("GET /", &[], b"")).unwrap();
    let mut reader = BufReader::new(&stream);
    let (_, headers) = read_head(&mut reader).unwrap();
    assert!(!headers.iter().any(|(name, _)| name == "connection"));
    drain(&gateway);
    pause(Duration::from_millis(800));
    more.store(true, Ordering::SeqCst);
    reader.read_exact(&mut [0; 1000]).unwrap();
    pause(Duration::from_millis(200));
    assert_eq!(ask(&stream).header("connection"), Some("close"));
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// With as many connections as there may be, others are accepted and not read, or wait in the kernel's queue.
fn http_50_who_waits_for_a_place_is_served() {
    let stub = slow(Duration::from_millis(300));
    let mut gateway = gateway_and("gateway: {workers: 2}\nlimits: {connections: 2}\n", &[&stub]);
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(gateway.listen);
            stream.write_all(&request("GET /", &[], b"")).unwrap();
            stream
        })
        .collect();
    eventually("the first request", || (!stub.requests().is_empty()).then_some(()));
    drain(&gateway);
    for stream in streams {
        assert_eq!(reply_on(&stream).expect("no answer").text(), "slow");
    }
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// Users that make a connection for each request, as fast as they can: whoever gets one gets an answer.
fn http_50_every_connection_that_came_into_being_is_answered() {
    for _ in 0..5 {
        let stub = Stub::ok("answered");
        let mut gateway = gateway_and("gateway: {workers: 2}\n", &[&stub]);
        let to = gateway.listen;
        let users: Vec<_> = (0..8).map(|_| std::thread::spawn(move || ask_until_refused(to))).collect();
        eventually("load", || (stub.requests().len() > 50).then_some(()));
        drain(&gateway);
        for user in users {
            user.join().unwrap();
        }
        assert_eq!(gateway.process.wait().code(), Some(0));
    }
}

fn ask_until_refused(to: SocketAddr) {
    // Until nobody is there any more; as long as nobody is let in, a connection is tried again in vain.
    while let Ok(stream) = TcpStream::connect_timeout(&to, Duration::from_millis(500)) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(ask(&stream).text(), "answered");
    }
}

/// The first GOAWAY allows every stream, since some may be on their way. Only after a round trip the gateway says which
/// was the last (RFC 9113 §6.8).
fn http_50_a_stream_that_crosses_the_goaway_is_answered() {
    let stub = slow(Duration::from_millis(300));
    let mut gateway = gateway_and("", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    frames.request(1, &GET, false);
    wait_for_in_flight(&gateway, 1);
    drain(&gateway);
    let (mut allowed, mut ping) = (Vec::new(), None);
    while ping.is_none() {
        let frame = frames.read().unwrap();
        match frame.kind {
            kind::GOAWAY => allowed.push(frame.payload[..4].to_vec()),
            kind::PING => ping = Some(frame.payload),
            _ => {}
        }
    }
    assert_eq!(allowed, [[0x7f, 0xff, 0xff, 0xff]]);
    frames.request(3, &GET, false);
    frames.send(kind::PING, 1, 0, &ping.unwrap());
    assert_eq!(frames.end_of(1), Ended::Answered(Some(200)));
    assert!(matches!(frames.end_of(3), Ended::Answered(_)));
    assert!(frames.is_ended_within(Duration::from_secs(5)));
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert_eq!(stub.requests().len(), 2);
}

/// An idle connection of HTTP/1 ends after `timeouts.drain_idle`; so does one of HTTP/2 on which nobody acknowledges the
/// PING behind the GOAWAY.
fn http_50_a_user_of_http2_who_is_gone_holds_nothing_up() {
    let stub = Stub::ok("answered");
    // Also where it had been idle for so long that it was told to go away before.
    for (idle, told_before) in [("30s", false), ("2s", true)] {
        let timeouts = format!("timeouts: {{drain: 15s, drain_idle: 300ms, request_head: {idle}}}\n");
        let mut gateway = gateway_and(&timeouts, &[&stub]);
        let mut used = Frames::connect(gateway.listen, b"");
        used.request(1, &GET, false);
        assert_eq!(used.end_of(1), Ended::Answered(Some(200)));
        let new = Frames::connect(gateway.listen, b"");
        if told_before {
            while used.read().expect("no GOAWAY").kind != kind::GOAWAY {}
        }
        let begun = Instant::now();
        gateway.process.signal("TERM");
        assert_eq!(gateway.process.wait().code(), Some(0));
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        assert!(
            begun.elapsed() < Duration::from_secs(8),
            "told before: {told_before}, {:?}",
            begun.elapsed()
        );
        assert_eq!(gateway.process.count("cut off"), 0);
        drop((used, new));
    }
}

/// Its time to ask is that of an idle connection, and once it has asked the answer is waited for.
fn http_50_a_stream_that_comes_late_is_answered_whatever_its_user_says() {
    let stub = slow(Duration::from_millis(1500));
    let mut gateway = gateway_and("timeouts: {drain: 20s, drain_idle: 1s}\n", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    eventually("the connection", || {
        (gateway.metric("gateway_connections{protocol=\"http2\"}") > 0.5).then_some(())
    });
    drain(&gateway);
    pause(Duration::from_millis(300));
    frames.request(1, &GET, false);
    let (mut answered, mut pinged) = (false, false);
    while !answered {
        let frame = frames.read().expect("the connection has ended");
        pinged |= frame.kind == kind::PING;
        answered = frame.kind == kind::DATA && frame.payload == b"slow";
    }
    assert!(pinged, "nothing was to be acknowledged");
    drop(frames);
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// The stream of an answer of which nothing more is to come has ended for the gateway, and not for its user.
fn http_50_the_rest_of_an_http2_answer_comes_when_its_user_has_room() {
    let stub = Stub::answering(|_| [HALF, &[b'x'; 995]].concat());
    let mut gateway = gateway_and("timeouts: {drain: 20s, drain_idle: 300ms}\n", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, &[0, 4, 0, 0, 0, 10]);
    frames.request(1, &GET, false);
    let mut got = 0;
    let mut read = |frames: &mut Frames, until: &dyn Fn(usize, u8) -> bool| loop {
        let frame = frames.read().expect("the connection has ended");
        if frame.kind == kind::DATA {
            got += frame.payload.len();
        } else if frame.kind == kind::PING && frame.flags == 0 {
            frames.send(kind::PING, 1, 0, &frame.payload);
        }
        if until(got, frame.kind) {
            return;
        }
    };
    read(&mut frames, &|got, _| got == 10);
    drain(&gateway);
    read(&mut frames, &|_, kind| kind == kind::PING);
    pause(Duration::from_millis(1500));
    frames.send(kind::WINDOW_UPDATE, 0, 1, &10_000u32.to_be_bytes());
    read(&mut frames, &|got, _| got == 1000);
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// It makes room for more than there is, which arrives when the gateway has sent everything.
fn http_50_an_http2_answer_is_whole_though_its_user_has_said_more() {
    let stub = slow_and_large();
    let mut gateway = gateway_and("", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, &[0, 4, 0, 15, 0, 0]);
    SockRef::from(&frames.stream).set_recv_buffer_size(8 * 1024).unwrap();
    frames.send(kind::WINDOW_UPDATE, 0, 0, &1_000_000u32.to_be_bytes());
    frames.request(1, &GET, false);
    wait_for_in_flight(&gateway, 1);
    gateway.process.signal("TERM");
    let mut got = 0;
    let mut read = |frames: &mut Frames, kind: u8| {
        while let Some(frame) = frames.read() {
            if frame.kind == kind::DATA {
                got += frame.payload.len();
            } else if frame.kind == kind::PING && frame.flags == 0 {
                frames.send(kind::PING, 1, 0, &frame.payload);
            }
            if frame.kind == kind {
                return got;
            }
        }
        got
    };
    read(&mut frames, kind::DATA);
    pause(Duration::from_millis(200)); // for the rest of it
    frames.send(kind::WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes());
    pause(Duration::from_millis(200)); // for that to arrive
    assert_eq!(read(&mut frames, u8::MAX), LARGE);
    drop(frames);
    assert_eq!(gateway.process.wait().code(), Some(0));
}

/// Whoever asks `/readyz` to know whom to send requests to has the time to ask.
fn timeouts_lame_duck_serves_on_and_is_not_ready() {
    let stub = Stub::ok("answered");
    let mut gateway = gateway_and("timeouts: {lame_duck: 1500ms, drain_idle: 1ms}\n", &[&stub]);
    let used = connect(gateway.listen);
    ask(&used);
    let begun = Instant::now();
    gateway.process.signal("TERM");
    within(Duration::from_secs(1), "not ready", || {
        let readiness = get(gateway.listen, "/readyz");
        (readiness.status == 503 && readiness.json()["reason"] == "draining").then_some(())
    });
    assert_eq!(get(gateway.listen, "/").text(), "answered");
    assert_eq!(ask(&used).header("connection"), None, "it goes on");
    assert!(begun.elapsed() < Duration::from_millis(1400));
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    // A second signal does not wait for it.
    let mut gateway = Apiserver::start("timeouts: {lame_duck: 1h}\n");
    gateway.process.signal("TERM");
    gateway.process.wait_for("signal", |line| line.contains("not ready").then_some(()));
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(1));
}
