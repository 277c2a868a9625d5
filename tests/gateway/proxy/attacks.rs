//! Row 41: users of HTTP/2 that want the gateway to work for nothing. Theirs is the connection that ends; others go on.

use std::io::{BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use super::{gateway_and, silent};
use crate::support::frames::{Ended, Field, Frames, GET, flag, frame, hpack, kind, string};
use crate::support::{Apiserver, Stub, get, read_head, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        http_41_rapid_reset_in_one_go,
        http_41_rapid_reset_one_by_one,
        http_41_resets_that_the_gateway_is_made_to_send,
        http_41_continuation_flood,
        http_41_empty_data_flood,
        http_41_hpack_bomb,
        http_41_settings_and_ping_flood,
        http_41_a_user_who_cancels_now_and_then_is_no_attacker,
        http_41_nor_is_one_who_cancels_many_at_once,
        http_41_a_user_who_sends_small_frames_within_its_windows_is_no_attacker,
    ]
}

const CONFIG: &str = "gateway: {workers: 1}\ntimeouts: {idle_body: 1s}\n";

/// What an attack may take of memory, far above what connections need and far below what would hurt.
const MAY_GROW_BY_KIB: u64 = 100 * 1024;

/// A GET; of `/silence` it gets no answer.
fn get_of(path: &'static [u8]) -> Vec<u8> {
    hpack(&[GET[0], GET[1], GET[2], (b":path", path)])
}

/// Runs `attack`, which is told how many requests got no answer, against a gateway while another user asks on, then expects that the
/// attacker's connection has ended, and was counted as one of these if it is one that does not simply stop reading.
#[track_caller]
fn withstands(reasons: &[&str], attack: impl FnOnce(&mut Frames, &AtomicUsize)) {
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let fine = Stub::raw(move |stream| {
        let mut reader = BufReader::new(&stream);
        while let Some((first, _)) = read_head(&mut reader) {
            if first.starts_with("GET /silence") {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
            } else if (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine").is_err() {
                return;
            }
        }
    });
    let mut gateway = gateway_and(CONFIG, &[&fine]);
    let (listen, before) = (gateway.listen, resident_kib(&gateway));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                assert_eq!(get(listen, "/").text(), "fine");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        let mut frames = Frames::connect(listen, b"");
        frames.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        attack(&mut frames, &begun);
        let grown = resident_kib(&gateway).saturating_sub(before);
        let ended = frames.is_ended_within(Duration::from_secs(10));
        over.store(true, Ordering::SeqCst);
        let slowest = other.join().unwrap();
        assert!(ended, "the attacker's connection goes on");
        assert!(slowest < Duration::from_secs(2), "another user waited for {slowest:?}");
        assert!(grown < MAY_GROW_BY_KIB, "memory grew by {grown} KiB");
    });
    assert!(gateway.process.is_running());
    assert_eq!(get(gateway.listen, "/").text(), "fine");
    let counted =
        |reason| gateway.metric(&format!("gateway_connections_refused_total{{reason=\"{reason}\"}}")) > 0.5;
    let is_counted = reasons.is_empty() || reasons.iter().any(counted);
    assert!(is_counted, "not counted as {reasons:?}: {}", gateway.metrics());
}

fn resident_kib(gateway: &Apiserver) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

const CANCEL: &[u8] = &[0, 0, 0, 8];

fn reset(stream: u32, block: &[u8]) -> Vec<u8> {
    let flags = flag::END_HEADERS | flag::END_STREAM;
    [frame(kind::HEADERS, flags, stream, block), frame(kind::RST_STREAM, 0, stream, CANCEL)].concat()
}

/// CVE-2023-44487, as fast as it goes.
fn http_41_rapid_reset_in_one_go() {
    withstands(&["http2", "cancelled_streams"], |frames, _| {
        let block = get_of(b"/");
        let pieces: Vec<Vec<u8>> = (0..50_000u32).map(|n| reset(2 * n + 1, &block)).collect();
        for piece in pieces.chunks(100) {
            if frames.stream.write_all(&piece.concat()).is_err() {
                return;
            }
        }
    });
}

/// As an attacker does who has heard of counts of what is reset before it was begun: each request has reached the
/// dataserver when it is cancelled.
fn http_41_rapid_reset_one_by_one() {
    withstands(&["cancelled_streams"], |frames, arrived| {
        let block = get_of(b"/silence");
        let begun = Instant::now();
        for n in 0..3_000u32 {
            let before = arrived.load(Ordering::SeqCst);
            let flags = flag::END_HEADERS | flag::END_STREAM;
            let mut sent = frames.send(kind::HEADERS, flags, 2 * n + 1, &block);
            while sent
                && arrived.load(Ordering::SeqCst) == before
                && begun.elapsed() < Duration::from_secs(20)
            {
                // A gateway that has had enough sends nothing on, and says so or closes.
                sent = !has_ended(frames);
                std::thread::yield_now();
            }
            let late = begun.elapsed() >= Duration::from_secs(20);
            if !sent || late || !frames.send(kind::RST_STREAM, 0, 2 * n + 1, CANCEL) {
                return;
            }
        }
    });
}

/// Whether a GOAWAY or the end has come, of what came so far.
fn has_ended(frames: &mut Frames) -> bool {
    frames.stream.set_nonblocking(true).unwrap();
    let mut head = [0; 9];
    let waiting = frames.stream.peek(&mut head);
    frames.stream.set_nonblocking(false).unwrap();
    match waiting {
        Ok(9) => frames.read().is_none_or(|frame| frame.kind == kind::GOAWAY),
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// CVE-2025-8671: the window of a stream overflows, and it is the gateway that has to reset it.
fn http_41_resets_that_the_gateway_is_made_to_send() {
    withstands(&["http2"], |frames, _| {
        let block = get_of(b"/");
        let most = 0x7fff_ffffu32.to_be_bytes();
        for n in 0..20_000u32 {
            let flags = flag::END_HEADERS | flag::END_STREAM;
            let head = frame(kind::HEADERS, flags, 2 * n + 1, &block);
            let update = frame(kind::WINDOW_UPDATE, 0, 2 * n + 1, &most);
            if frames.stream.write_all(&[head, update].concat()).is_err() {
                return;
            }
        }
    });
}

/// CVE-2024-27316: a head without an end, in frames with something in them and in empty ones.
fn http_41_continuation_flood() {
    for payload in [hpack(&[(b"x", b"y")]), Vec::new()] {
        withstands(&["http2"], |frames, _| {
            frames.send(kind::HEADERS, flag::END_STREAM, 1, &get_of(b"/"));
            let more = frame(kind::CONTINUATION, 0, 1, &payload).repeat(100);
            for _ in 0..10_000 {
                if frames.stream.write_all(&more).is_err() {
                    return;
                }
            }
        });
    }
}

/// CVE-2019-9518: frames that cost the sender nothing and end nothing.
fn http_41_empty_data_flood() {
    withstands(&["http2"], |frames, _| {
        let post: [Field<'_>; 4] = [(b":method", b"POST"), GET[1], GET[2], GET[3]];
        frames.request(1, &post, true);
        let empty = frame(kind::DATA, 0, 1, b"").repeat(100);
        for _ in 0..20_000 {
            if frames.stream.write_all(&empty).is_err() {
                return;
            }
        }
    });
}

/// CVE-2016-6581: one long field in the dynamic table, and then a byte for each time that it is named.
fn http_41_hpack_bomb() {
    let stub = Stub::ok("fine");
    let mut gateway = gateway_and(CONFIG, &[&stub]);
    let before = resident_kib(&gateway);
    let mut connections = Vec::new();
    for _ in 0..10 {
        let mut frames = Frames::connect(gateway.listen, b"");
        let mut block = get_of(b"/");
        block.push(0x40);
        string(&mut block, b"x");
        string(&mut block, &[b'a'; 4000]);
        block.extend([0xbe; 12_000]);
        frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block);
        let ended = frames.end_of(1);
        assert!(
            !matches!(ended, crate::support::frames::Ended::Answered(Some(200) | None)),
            "48 MB of fields are taken: {ended:?}"
        );
        connections.push(frames);
    }
    let grown = resident_kib(&gateway).saturating_sub(before);
    assert!(grown < MAY_GROW_BY_KIB, "memory grew by {grown} KiB");
    assert!(stub.requests().is_empty() && gateway.process.is_running());
    assert_eq!(get(gateway.listen, "/").text(), "fine");
}

/// CVE-2019-9512, CVE-2019-9515: each has to be acknowledged to a user that reads nothing.
fn http_41_settings_and_ping_flood() {
    for asked in [frame(kind::SETTINGS, 0, 0, b""), frame(kind::PING, 0, 0, b"12345678")] {
        withstands(&[], |frames, _| {
            let many = asked.repeat(1000);
            for _ in 0..10_000 {
                if frames.stream.write_all(&many).is_err() {
                    return;
                }
            }
        });
    }
}

/// A browser that is sent elsewhere cancels what it has asked for; its connection is not to suffer.
fn http_41_a_user_who_cancels_now_and_then_is_no_attacker() {
    let (mute, block) = (silent(), get_of(b"/"));
    let gateway = gateway_and(CONFIG, &[&mute]);
    let mut frames = Frames::connect(gateway.listen, b"");
    for n in 0..10u32 {
        let before = mute.connections();
        assert!(frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 2 * n + 1, &block));
        crate::support::eventually("the request to arrive", || (mute.connections() > before).then_some(()));
        assert!(frames.send(kind::RST_STREAM, 0, 2 * n + 1, CANCEL));
    }
    frames.send(kind::PING, 0, 0, b"12345678");
    loop {
        let frame = frames.read().expect("the connection has ended");
        assert_ne!(frame.kind, kind::GOAWAY);
        if frame.kind == kind::PING && frame.flags == 1 {
            break;
        }
    }
}

/// What came while the gateway was busy is read in one go, the requests and that they are cancelled.
fn http_41_nor_is_one_who_cancels_many_at_once() {
    let (mute, block) = (silent(), get_of(b"/"));
    let gateway = gateway_and(CONFIG, &[&mute]);
    let mut frames = Frames::connect(gateway.listen, b"");
    let pieces: Vec<_> = (0..400u32).map(|n| reset(2 * n + 1, &block)).collect();
    frames.stream.write_all(&pieces.concat()).unwrap();
    assert!(frames.request(801, &[GET[0], GET[1], GET[2], (b":path", b"/healthz")], false));
    assert_eq!(frames.end_of(801), Ended::Answered(Some(200)));
}

/// As many frames as fit into the window of a stream, in one go.
fn http_41_a_user_who_sends_small_frames_within_its_windows_is_no_attacker() {
    let stub = Stub::ok("fine");
    let gateway = gateway_and(CONFIG, &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    let (mut of_streams, mut of_connection) = (0, 65_535);
    while of_connection == 65_535 {
        let frame = frames.read().expect("the connection has ended");
        match (frame.kind, frame.flags) {
            (kind::SETTINGS, 0) => {
                let window = frame.payload.chunks(6).find(|setting| setting[..2] == [0, 4]).unwrap();
                of_streams = u32::from_be_bytes(window[2..].try_into().unwrap());
                frames.send(kind::SETTINGS, 1, 0, b"");
            }
            (kind::WINDOW_UPDATE, _) => {
                of_connection += u32::from_be_bytes(frame.payload.try_into().unwrap());
            }
            _ => {}
        }
    }
    let count = of_streams.min(of_connection) / 5;
    assert!(count > 10_000, "the windows are {of_streams} and {of_connection}");
    let post: [Field<'_>; 4] = [(b":method", b"POST"), GET[1], GET[2], GET[3]];
    let burst = [
        frame(kind::HEADERS, flag::END_HEADERS, 1, &hpack(&post)),
        frame(kind::DATA, 0, 1, b"12345").repeat(count as usize),
        frame(kind::DATA, flag::END_STREAM, 1, b""),
    ];
    frames.stream.write_all(&burst.concat()).unwrap();
    assert_eq!(frames.end_of(1), Ended::Answered(Some(200)));
    let sent = (stub.requests()[0].complete, stub.requests()[0].body.len());
    assert_eq!(sent, (true, 5 * count as usize));
}
