//! Keys that change while a connection of HTTP/2 is open: it keeps to the new ones from its next stream on.

use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use libtest_mimic::Trial;

use super::start;
use crate::support::frames::{Ended, Frames, GET, kind};
use crate::support::{Apiserver, Stub, eventually, read_head, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        fewer_streams_may_be_cancelled,
        an_answer_waits_for_less_long_for_room,
        a_connection_is_idle_for_less_long,
    ]
}

const CANCEL: &[u8] = &[0, 0, 0, 8];

/// A gateway in front of this stub, and an open connection to it on which an answer has come.
fn begun(config: &str, stub: &Stub) -> (Apiserver, Frames) {
    let gateway = start(&format!("registry: {{ttl: 1h}}\n{config}"));
    gateway.announce(&[stub.addr()]);
    let mut frames = Frames::connect(gateway.listen, b"");
    assert!(frames.request(1, &ask(b"/healthz"), false));
    assert_eq!(frames.end_of(1), Ended::Answered(Some(200)));
    (gateway, frames)
}

fn ask(path: &'static [u8]) -> [(&'static [u8], &'static [u8]); 4] {
    let mut fields = GET;
    fields[3].1 = path;
    fields
}

fn fewer_streams_may_be_cancelled() {
    let arrived = Arc::new(AtomicUsize::new(0));
    let seen = arrived.clone();
    let stub = Stub::raw(move |stream| {
        let mut reader = BufReader::new(stream);
        while read_head(&mut reader).is_some() {
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let (gateway, mut frames) = begun("limits: {cancelled_streams: 1000}\n", &stub);
    let cancel = |frames: &mut Frames, stream: u32| {
        let before = arrived.load(Ordering::SeqCst);
        assert!(frames.request(stream, &ask(b"/"), false));
        eventually("the request", || (arrived.load(Ordering::SeqCst) > before).then_some(()));
        assert!(frames.send(kind::RST_STREAM, 0, stream, CANCEL));
    };
    for n in 0..20 {
        cancel(&mut frames, 3 + 2 * n);
    }
    assert!(frames.request(101, &ask(b"/healthz"), false));
    assert!(matches!(frames.end_of(101), Ended::Answered(_)), "so many were allowed");
    gateway.change_to("registry: {ttl: 1h}\nlimits: {cancelled_streams: 10}\n");
    // It may be ended as soon as something comes.
    let _ = frames.request(103, &ask(b"/"), false) && frames.send(kind::RST_STREAM, 0, 103, CANCEL);
    assert!(frames.is_ended_within(Duration::from_secs(10)), "21 are more than 10");
}

fn an_answer_waits_for_less_long_for_room() {
    let stub = Stub::ok("x".repeat(1 << 20).leak());
    let (gateway, mut frames) = begun("timeouts: {idle_body: 1h, request_head: 1h}\n", &stub);
    // SETTINGS_INITIAL_WINDOW_SIZE: there is room for a byte.
    assert!(frames.send(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]));
    gateway.change_to("registry: {ttl: 1h}\ntimeouts: {idle_body: 300ms, request_head: 1h}\n");
    assert!(frames.request(3, &ask(b"/"), false));
    assert!(matches!(frames.end_of(3), Ended::Reset(_)));
}

fn a_connection_is_idle_for_less_long() {
    let stub = Stub::ok("");
    let (gateway, mut frames) = begun("timeouts: {request_head: 1h}\n", &stub);
    gateway.change_to("registry: {ttl: 1h}\ntimeouts: {request_head: 300ms}\n");
    assert!(frames.request(3, &ask(b"/"), false));
    assert_eq!(frames.end_of(3), Ended::Answered(Some(200)));
    assert!(frames.is_ended_within(Duration::from_secs(10)), "it was idle for 300 ms");
}
