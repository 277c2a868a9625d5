//! Row 49: users that leave.

use std::io::{BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use super::{begin, gateway_and, wait_for_in_flight};
use crate::support::frames::{Frames, GET, kind};
use crate::support::h2_stub::{Connections, take};
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, eventually, get, pause, read_head, request, trials, within,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_49_a_user_who_leaves_takes_the_request_along,
        http_49_also_in_the_middle_of_an_answer,
        http_49_also_in_the_middle_of_an_upload,
        http_49_also_after_a_line_end_too_many,
        http_49_a_stream_that_is_reset_takes_the_request_along,
        what_a_user_does_to_its_upload_behind_the_head_of_its_answer_is_no_dataservers_doing,
    ]
}

/// A dataserver that sends what it is told after a head, and then waits for the other side to close.
pub(super) struct Waiting {
    pub(super) stub: Stub,
    open: Arc<AtomicUsize>,
}

impl Waiting {
    pub(super) fn new(answer: &'static [u8]) -> Self {
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
    pub(super) fn wait_for(&self, count: usize) {
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

pub(super) const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345";

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

/// Which some programs send behind a body (row 49 would not be met by looking at the first thing that comes alone).
fn http_49_also_after_a_line_end_too_many() {
    let waiting = Waiting::new(b"");
    let gateway = gateway_and("", &[&waiting.stub]);
    let mut stream = begin(gateway.listen, &request("POST /", &[], b"all of it"));
    waiting.wait_for(1);
    for _ in 0..2 {
        stream.write_all(b"\r\n").unwrap();
        pause(Duration::from_millis(50)); // so that each is read by itself
    }
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

fn what_a_user_does_to_its_upload_behind_the_head_of_its_answer_is_no_dataservers_doing() {
    let answering = H2Stub::raw(Connections::default(), |request, mut respond| {
        Box::pin(async move {
            let _answer = respond.send_response(http::Response::new(()), false);
            let _ = take(request).await;
            std::future::pending::<()>().await;
        })
    });
    let waiting = Waiting::new(HALF);
    let gateway = gateway_and("timeouts: {idle_body: 500ms}\n", &[&waiting.stub]);
    let over_http2 = Apiserver::start(&format!("{PATIENT}timeouts: {{idle_body: 500ms}}\n"));
    over_http2.announce_h2c(&[answering.addr()]);
    for (gateway, dataserver) in [(&gateway, waiting.stub.addr()), (&over_http2, answering.addr())] {
        for does in ["nonsense", "end", "nothing"] {
            let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
            let mut user = begin(gateway.listen, head);
            assert!(read_head(&mut BufReader::new(&user)).is_some());
            match does {
                "nonsense" => user.write_all(b"zz\r\n").unwrap(),
                "end" => user.shutdown(std::net::Shutdown::Write).unwrap(),
                _ => {}
            }
            wait_for_in_flight(gateway, 0);
            let told = get(gateway.listen, &format!("/dataservers/{dataserver}")).json();
            let kinds: Vec<_> =
                told["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
            assert_eq!(kinds, ["joined"], "{does}: {told}");
        }
        assert!(!gateway.metrics().contains("gateway_upstream_errors_total{"), "{}", gateway.metrics());
    }
}
