//! Rows 49 and 50: users that leave, and the gateway that does.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{begin, gateway_and, silent, slow, wait_for_in_flight};
use crate::support::frames::{Frames, GET, kind};
use crate::support::{Apiserver, Stub, eventually, read_head, read_reply, request, trials, within};

pub fn trials() -> Vec<Trial> {
    trials![
        http_49_a_user_who_leaves_takes_the_request_along,
        http_49_also_in_the_middle_of_an_answer,
        http_49_also_in_the_middle_of_an_upload,
        http_49_a_stream_that_is_reset_takes_the_request_along,
        http_50_timeouts_drain_lets_requests_end_and_cuts_off_those_that_do_not,
        http_50_an_http2_connection_is_told_goaway,
        http_50_the_deadline_holds_with_a_stream_that_is_stuck,
        http_50_a_kept_connection_is_told_to_close_when_the_gateway_drains,
        http_50_what_was_sent_before_the_signal_is_answered,
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

/// A dataserver that sends what it is told after a head, and then waits for the other side to close.
struct Waiting {
    stub: Stub,
    open: Arc<AtomicUsize>,
}

impl Waiting {
    fn new(answer: &'static [u8]) -> Self {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = open.clone();
        let stub = Stub::raw(move |stream| {
            let mut reader = BufReader::new(&stream);
            let _ = read_head(&mut reader);
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = (&stream).write_all(answer);
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
            counted.fetch_sub(1, Ordering::SeqCst);
        });
        Self { stub, open }
    }

    /// Waits until so many requests have come.
    #[track_caller]
    fn wait_for(&self, count: usize) {
        eventually("the request to arrive", || (self.open.load(Ordering::SeqCst) == count).then_some(()));
    }

    /// The gateway has a second to close; the rest is for a machine that has much to do.
    #[track_caller]
    fn closed_in_time(&self, gateway: &Apiserver) {
        within(Duration::from_secs(3), "the dataserver's connection closed", || {
            (self.open.load(Ordering::SeqCst) == 0).then_some(())
        });
        wait_for_in_flight(gateway, 0);
    }
}

const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345";

fn http_49_a_user_who_leaves_takes_the_request_along() {
    let waiting = Waiting::new(b"");
    let gateway = gateway_and("", &[&waiting.stub]);
    for bytes in [request("GET /", &[], b""), request("POST /", &[], b"all of it")] {
        let stream = begin(gateway.listen, &bytes);
        waiting.wait_for(1);
        drop(stream);
        waiting.closed_in_time(&gateway);
    }
    for method in ["GET", "POST"] {
        let left = format!("gateway_requests_total{{method=\"{method}\",code=\"499\"}}");
        assert!(gateway.metric(&left) > 0.0);
    }
}

fn http_49_also_in_the_middle_of_an_answer() {
    let waiting = Waiting::new(HALF);
    let gateway = gateway_and("", &[&waiting.stub]);
    let stream = begin(gateway.listen, &request("GET /", &[], b""));
    assert!(read_head(&mut BufReader::new(&stream)).is_some());
    drop(stream);
    waiting.closed_in_time(&gateway);
}

fn http_49_also_in_the_middle_of_an_upload() {
    let waiting = Waiting::new(b"");
    let gateway = gateway_and("", &[&waiting.stub]);
    let stream = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n12345");
    waiting.wait_for(1);
    drop(stream);
    waiting.closed_in_time(&gateway);
}

/// Before the answer and in the middle of it, by a reset and by leaving.
fn http_49_a_stream_that_is_reset_takes_the_request_along() {
    for answer in [&b""[..], HALF] {
        let waiting = Waiting::new(answer);
        let gateway = gateway_and("", &[&waiting.stub]);
        let mut frames = Frames::connect(gateway.listen, b"");
        for (stream, leaves) in [(1, false), (3, true)] {
            frames.request(stream, &GET, false);
            waiting.wait_for(1);
            while !answer.is_empty() && frames.read().is_some_and(|frame| frame.kind != kind::DATA) {}
            if leaves {
                frames.stream.shutdown(std::net::Shutdown::Both).unwrap();
            } else {
                frames.send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            }
            waiting.closed_in_time(&gateway);
        }
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
    let post: [crate::support::frames::Field<'_>; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")];
    frames.request(3, &post, true);
    waiting.wait_for(2);
    let begun = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(gateway.process.output().contains("cut off"), "{}", gateway.process.output());
}
