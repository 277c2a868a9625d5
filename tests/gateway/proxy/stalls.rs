//! Row 44: bodies that do not move, and readers that do not read.

use std::io::{BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{assert_problem, begin, gateway_and, wait_for_in_flight};
use crate::support::frames::{Ended, Field, Frames, GET, kind};
use crate::support::h2_stub::{Connections, ok};
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, eventually, get, pause, post, read_body, read_head, read_reply,
    request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_44_an_answer_that_stalls_is_aborted,
        http_44_a_request_that_stalls_is_aborted,
        http_44_a_request_in_chunks_that_stalls_is_aborted,
        http_44_a_reader_that_stops_is_cut_off,
        http_44_an_upload_that_the_dataserver_does_not_read_is_aborted,
        http_44_an_http2_reader_that_opens_no_window_is_cut_off,
        http_44_an_http2_reader_that_does_not_read_is_cut_off,
        http_44_an_http2_request_that_stalls_is_aborted,
        http_44_a_slow_reader_that_reads_is_served,
        http_44_a_slow_http2_reader_that_reads_is_served,
        http_44_an_answer_may_wait_for_an_upload_that_moves,
        http_46_a_slow_http2_dataserver_that_reads_is_waited_for,
        http_44_what_an_http2_user_does_not_read_is_bounded,
    ]
}

const LIMIT: &str = "timeouts: {idle_body: 500ms}\n";

fn http_44_an_answer_that_stalls_is_aborted() {
    let stub = Stub::raw(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345");
        while stream.read(&mut [0; 1024]).is_ok_and(|read| read > 0) {}
    });
    let gateway = gateway_and("timeouts: {idle_body: 500ms}\n", &[&stub]);
    let begun = Instant::now();
    let reply = get(gateway.listen, "/");
    assert!(!reply.complete && begun.elapsed() < Duration::from_secs(5));
}

fn http_44_a_request_that_stalls_is_aborted() {
    let stub = Stub::ok("");
    let gateway = gateway_and("timeouts: {idle_body: 500ms}\n", &[&stub]);
    let mut stream = crate::support::connect(gateway.listen);
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n12345").unwrap();
    let reply = read_reply(&mut BufReader::new(stream), false).unwrap();
    assert_problem(&reply, 408, "http_request_error");
}

fn http_44_a_reader_that_stops_is_cut_off() {
    let endless = Endless::new();
    let gateway = gateway_and(LIMIT, &[&endless.stub]);
    let stream = begin(gateway.listen, &request("GET /", &[], b""));
    eventually("it to be under way", || (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(()));
    eventually("it to be cut off", || (gateway.metric("gateway_requests_in_flight") < 1.0).then_some(()));
    drop(stream);
}

/// A dataserver whose answers have no end, and how many of them it still sends.
struct Endless {
    stub: Stub,
    open: Arc<AtomicUsize>,
}

impl Endless {
    fn new() -> Self {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let stub = Stub::raw(move |stream| {
            let _ = read_head(&mut BufReader::new(&stream));
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n");
            while (&stream).write_all(&[b'x'; 16384]).is_ok() {}
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        Self { stub, open }
    }

    /// Waits until an answer was begun and its connection was closed by the gateway.
    #[track_caller]
    fn wait_for_the_end(&self) {
        eventually("the dataserver's connection to be closed", || {
            (self.stub.connections() > 0 && self.open.load(Ordering::SeqCst) == 0).then_some(())
        });
    }
}

fn http_44_a_request_in_chunks_that_stalls_is_aborted() {
    let stub = Stub::ok("");
    let gateway = gateway_and(LIMIT, &[&stub]);
    for rest in ["5\r\n12", "5\r\n12345\r\n", "5", "0\r\n"] {
        let head = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{rest}");
        let stream = begin(gateway.listen, head.as_bytes());
        let reply = read_reply(&mut BufReader::new(&stream), false).expect("no answer");
        assert_problem(&reply, 408, "http_request_error");
        assert_eq!((&stream).read(&mut [0; 1]).unwrap_or(0), 0, "the connection goes on");
    }
    eventually("the dataserver to see them end", || (stub.requests().len() == 4).then_some(()));
    assert!(stub.requests().iter().all(|request| !request.complete));
}

fn http_44_an_upload_that_the_dataserver_does_not_read_is_aborted() {
    let go_on = Arc::new(AtomicUsize::new(0));
    let may_read = go_on.clone();
    let stub = Stub::raw(move |stream| {
        let mut reader = BufReader::with_capacity(64, &stream);
        let _ = read_head(&mut reader);
        eventually("the test to go on", || (may_read.load(Ordering::SeqCst) == 1).then_some(()));
        // What the kernel had taken in is there; then the connection has ended.
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
        may_read.store(2, Ordering::SeqCst);
    });
    let gateway = gateway_and("timeouts: {idle_body: 500ms, response_head: 500ms}\n", &[&stub]);
    let stream = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000000\r\n\r\n");
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while (&stream).write_all(&[b'x'; 16384]).is_ok() {}
    let reply = read_reply(&mut BufReader::new(&stream), false).expect("no answer");
    assert!([502, 504].contains(&reply.status), "{reply:?}");
    wait_for_in_flight(&gateway, 0);
    go_on.store(1, Ordering::SeqCst);
    eventually("its connection to be closed", || (go_on.load(Ordering::SeqCst) == 2).then_some(()));
}

/// Neither the stream's window nor the connection's is ever opened: 65,535 bytes, and then nothing moves. The client
/// answers pings, so that it is alive.
fn http_44_an_http2_reader_that_opens_no_window_is_cut_off() {
    for (window, is_stream) in [(0u32, true), (1 << 30, false)] {
        let endless = Endless::new();
        let gateway = gateway_and(LIMIT, &[&endless.stub]);
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let mut frames = Frames::connect(gateway.listen, &settings);
        frames.request(1, &GET, false);
        frames.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let ended = frames.end_of(1);
        assert!(
            !matches!(ended, Ended::Answered(_) | Ended::Silent),
            "{ended:?}, by the stream's window: {is_stream}"
        );
        endless.wait_for_the_end();
        wait_for_in_flight(&gateway, 0);
    }
}

fn http_44_an_http2_reader_that_does_not_read_is_cut_off() {
    let endless = Endless::new();
    let gateway = gateway_and(LIMIT, &[&endless.stub]);
    let settings = [&[0, 4][..], &(1u32 << 30).to_be_bytes()].concat();
    let mut frames = Frames::connect(gateway.listen, &settings);
    frames.send(kind::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes());
    frames.request(1, &GET, false);
    endless.wait_for_the_end();
    wait_for_in_flight(&gateway, 0);
}

fn http_44_an_http2_request_that_stalls_is_aborted() {
    let stub = Stub::ok("");
    let gateway = gateway_and(LIMIT, &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    let post: [Field<'_>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")];
    frames.request(1, &post, true);
    frames.send(kind::DATA, 0, 1, b"12345");
    assert_eq!(frames.end_of(1), Ended::Answered(Some(408)));
    // Only that stream: the connection is as good as before.
    frames.request(3, &GET, false);
    assert!(matches!(frames.end_of(3), Ended::Answered(_)));
    eventually("the dataserver to see it end", || (stub.requests().len() == 2).then_some(()));
    assert_eq!(stub.requests().iter().filter(|request| request.complete).count(), 1);
}

/// What moves may be slow: the limit is on standing still.
fn http_44_a_slow_reader_that_reads_is_served() {
    let body = vec![b'x'; 8_000_000];
    let answer =
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
    let stub = Stub::answering(move |_| answer.clone());
    let gateway = gateway_and("timeouts: {idle_body: 1s}\n", &[&stub]);
    let mut stream = begin(gateway.listen, &request("GET /", &[("connection", "close")], b""));
    let (mut got, mut buffer) = (0, vec![0; 400_000]);
    let begun = Instant::now();
    while got < 8_000_000 {
        // A piece each tenth of a second takes two seconds in all, twice the limit.
        crate::support::pause(Duration::from_millis(100));
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "cut off after {got} bytes and {:?}", begun.elapsed());
        got += read;
    }
}

/// A user who opens every window and then reads nothing. What is in the gateway's memory of its answers is no request
/// under way any more, so that answers of more than that bound stay under way.
fn http_44_what_an_http2_user_does_not_read_is_bounded() {
    const STREAMS: u32 = 100;
    const BODY: usize = 300 * 1024; // less than what hyper would take by itself
    let answer =
        [format!("HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n").as_bytes(), &vec![b'x'; BODY]].concat();
    let stub = Stub::answering(move |_| answer.clone());
    let gateway = gateway_and("gateway: {workers: 1}\n", &[&stub]);
    let window = 0x7fff_ffffu32;
    let mut frames = Frames::connect(gateway.listen, &[&[0, 4][..], &window.to_be_bytes()].concat());
    // The kernel takes some of it in, but not all.
    socket2::SockRef::from(&frames.stream).set_recv_buffer_size(16 * 1024).unwrap();
    frames.send(kind::WINDOW_UPDATE, 0, 0, &(window - 65_535).to_be_bytes());
    for n in 0..STREAMS {
        frames.request(2 * n + 1, &GET, false);
    }
    eventually("every request to arrive", || (stub.requests().len() == STREAMS as usize).then_some(()));
    crate::support::pause(Duration::from_millis(700));
    let under_way = gateway.metric("gateway_requests_in_flight");
    assert!(under_way >= f64::from(STREAMS) / 2.0, "of {STREAMS} answers {under_way} are under way");
    // And all of it comes once it is read.
    socket2::SockRef::from(&frames.stream).set_recv_buffer_size(4 * 1024 * 1024).unwrap();
    let (mut ended, mut bytes) = (0, 0);
    while ended < STREAMS {
        let frame = frames.read().expect("the connection has ended");
        if frame.kind == kind::DATA {
            bytes += frame.payload.len();
            ended += u32::from(frame.flags & 1);
        }
    }
    assert_eq!(bytes, BODY * STREAMS as usize);
}

/// Of each of these bytes 4096 at a time find room, some ten times in a second.
const LARGE: usize = 400_000;

fn http_44_a_slow_http2_reader_that_reads_is_served() {
    const WINDOW: u32 = 4096;
    let body = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n{}", "x".repeat(LARGE));
    let stub = Stub::answering(move |_| body.clone().into_bytes());
    let gateway = gateway_and("timeouts: {idle_body: 1s}\n", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, &[&[0, 4][..], &WINDOW.to_be_bytes()].concat());
    frames.request(1, &GET, false);
    let (mut received, mut granted) = (0, WINDOW as usize);
    while received < LARGE {
        let frame = frames.read().unwrap_or_else(|| panic!("after {received}"));
        assert_ne!(frame.kind, kind::RST_STREAM, "after {received}");
        if frame.kind == kind::DATA {
            received += frame.payload.len();
        }
        if received == granted {
            pause(Duration::from_millis(40));
            granted += WINDOW as usize;
            frames.send(kind::WINDOW_UPDATE, 0, 1, &WINDOW.to_be_bytes());
            frames.send(kind::WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        }
    }
}

fn http_46_a_slow_http2_dataserver_that_reads_is_waited_for() {
    let connections = Connections { window: Some(4096), ..Connections::default() };
    let stub = H2Stub::raw(connections, |mut request, respond| {
        Box::pin(async move {
            let (mut received, mut held) = (0, 0);
            while let Some(Ok(part)) = request.body_mut().data().await {
                (received, held) = (received + part.len(), held + part.len());
                if held >= 4096 {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    let _ = request.body_mut().flow_control().release_capacity(std::mem::take(&mut held));
                }
            }
            if received == LARGE {
                ok(respond, "all of it");
            }
        })
    });
    let gateway = Apiserver::start(&format!("{PATIENT}timeouts: {{response_head: 1s}}\n"));
    gateway.announce_h2c(&[stub.addr()]);
    let reply = post(gateway.listen, "/", &vec![b'x'; LARGE]);
    assert_eq!((reply.status, reply.text().as_str()), (200, "all of it"));
}

/// As of a program that makes its answer of what it gets.
fn http_44_an_answer_may_wait_for_an_upload_that_moves() {
    let stub = Stub::raw(|stream| {
        let mut reader = BufReader::new(&stream);
        let Some((_, headers)) = read_head(&mut reader) else { return };
        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        if read_body(&mut reader, &headers, false).1 {
            let _ = (&stream).write_all(b"done");
        }
    });
    let gateway = gateway_and(LIMIT, &[&stub]);
    let mut user = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n");
    for _ in 0..20 {
        user.write_all(b"01234").unwrap();
        pause(Duration::from_millis(100));
    }
    let reply = read_reply(&mut BufReader::new(user), false).unwrap();
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "done", true));
}
