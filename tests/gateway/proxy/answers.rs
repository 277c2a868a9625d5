//! Rows 30 to 37: answers, and what a dataserver can do wrong in one.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use libtest_mimic::Trial;
use socket2::SockRef;

use super::{assert_problem, begin, errors, gateway_and};
use crate::support::frames::{Ended, Frames, GET};
use crate::support::{
    Apiserver, Reply, Stub, connect, eventually, exchange, get, pause, post, read_head, read_reply, request,
    trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        http_30_head_and_304_keep_their_length_and_204_has_none,
        http_30_over_http2_too,
        http_30_the_gateways_own_answer_to_head_over_http2,
        http_31_chunks_win_over_a_length_in_an_answer,
        http_32_junk_is_502,
        http_32_a_head_over_the_limits_is_502,
        http_32_what_precedes_http10_is_502,
        http_33_an_answer_in_another_coding_is_502,
        http_34_a_dataserver_that_closes_before_it_answers_is_502,
        http_35_an_answer_that_breaks_off_is_visibly_broken,
        http_35_an_http10_user_sees_a_reset_and_no_end,
        http_35_an_http10_user_who_is_cut_off_sees_a_reset_and_no_end,
        http_35_an_http2_user_sees_a_reset_of_the_stream,
        http_35_a_reset_that_an_upload_meets_is_no_end_of_an_answer,
        http_35_an_answer_is_whole_though_the_one_behind_it_breaks_off,
        http_36_what_follows_an_answer_is_dropped_with_its_connection,
        http_36_a_body_that_cannot_be_is_dropped_with_its_connection,
        http_36_a_body_that_cannot_be_and_comes_late_is_nobodys_answer,
        http_37_an_early_answer_reaches_a_user_who_still_sends,
        http_37_a_dataserver_that_closes_on_an_upload_is_an_answer_too,
        http_37_a_user_who_never_stops_is_cut,
        http_37_an_answer_before_the_end_of_an_upload_leaves_nothing_behind,
    ]
}

fn http_31_chunks_win_over_a_length_in_an_answer() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            .to_vec()
    });
    let gateway = gateway_and("", &[&stub]);
    let reply = get(gateway.listen, "/");
    assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "abc", true));
    assert_eq!(reply.header("content-length"), None);
}

fn http_32_junk_is_502() {
    for junk in [
        &b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
    ] {
        let stub = Stub::answering(move |_| junk.to_vec());
        let gateway = gateway_and("", &[&stub]);
        assert_problem(&get(gateway.listen, "/"), 502, "http_protocol_error");
        assert!(errors(&gateway, &stub, "protocol") > 0.0);
    }
    let huge = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 200_000]].concat();
    let stub = Stub::answering(move |_| huge.clone());
    let gateway = gateway_and("", &[&stub]);
    assert_problem(&get(gateway.listen, "/"), 502, "http_protocol_error");
}

fn http_33_an_answer_in_another_coding_is_502() {
    for coding in ["gzip", "gzip, chunked"] {
        let answer = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n0\r\n\r\n").into_bytes();
        let stub = Stub::answering(move |_| answer.clone());
        let gateway = gateway_and("", &[&stub]);
        assert_eq!(get(gateway.listen, "/").status, 502, "{coding}");
    }
}

fn http_34_a_dataserver_that_closes_before_it_answers_is_502() {
    let stub = Stub::answering(|_| Vec::new());
    let gateway = gateway_and("", &[&stub]);
    // Something was sent: a POST must not be sent again.
    let reply = post(gateway.listen, "/", b"once");
    assert_problem(&reply, 502, "connection_terminated");
    assert!(reply.header("proxy-status").unwrap().contains(&format!("next-hop=\"{}\"", stub.addr())));
    assert_eq!(stub.requests().len(), 1);
    assert!(errors(&gateway, &stub, "closed") > 0.0);
}

fn http_35_an_answer_that_breaks_off_is_visibly_broken() {
    for head in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ] {
        let stub = Stub::raw(move |mut stream| {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(head);
        });
        let gateway = gateway_and("", &[&stub]);
        let reply = get(gateway.listen, "/");
        assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "12345", false));
        eventually("the failure to be counted", || (errors(&gateway, &stub, "body") > 0.0).then_some(()));
    }
}

/// The dataserver answers at once and reads no further, while the user goes on sending, and then leaves.
fn http_37_an_answer_before_the_end_of_an_upload_leaves_nothing_behind() {
    static OPEN: AtomicBool = AtomicBool::new(false);
    let stub = Stub::raw(|mut stream| {
        OPEN.store(true, Ordering::SeqCst);
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n");
        // Notices the end without reading what was sent: a write fails once the other side is gone.
        while stream.write_all(b"").is_ok() && stream.peek(&mut [0; 1]).is_ok() {
            pause(Duration::from_millis(50));
            if stream.take_error().ok().flatten().is_some() {
                break;
            }
        }
        OPEN.store(false, Ordering::SeqCst);
    });
    let config = "gateway: {admin_listen: '127.0.0.1:0'}\ntimeouts: {pool_idle: 500ms, idle_body: 1s}\n";
    let gateway = gateway_and(config, &[&stub]);
    let stream = TcpStream::connect(gateway.listen).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    (&mut &stream).write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").unwrap();
    while (&mut &stream).write_all(&[b'x'; 16384]).is_ok() {}
    assert_eq!(read_reply(&mut BufReader::new(&stream), false).unwrap().status, 413);
    drop(stream);
    eventually("the user's connection to be gone", || {
        (gateway.metric("gateway_connections{protocol=\"http1\"}") < 1.0).then_some(())
    });
    assert!(gateway.metric("gateway_requests_in_flight") < 1.0);
}

const BODILESS: [(&str, &str, Option<&str>); 8] = [
    ("HEAD /length", "HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n", Some("12345")),
    ("HEAD /none", "HTTP/1.1 200 OK\r\n\r\n", None),
    ("HEAD /chunks", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None),
    ("HEAD /zero", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
    ("GET /304-length", "HTTP/1.1 304 Not Modified\r\ncontent-length: 777\r\n\r\n", Some("777")),
    ("GET /304-none", "HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n", None),
    ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n", None),
    // RFC 9110 §8.6: a server must not send it, so a gateway does not pass it on.
    ("GET /204-length", "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", None),
];

/// A dataserver that answers as the table says.
fn bodiless() -> Stub {
    Stub::answering(|exchange| {
        let row = BODILESS.iter().find(|(line, _, _)| exchange.first == format!("{line} HTTP/1.1"));
        row.expect("no such answer").1.as_bytes().to_vec()
    })
}

fn http_30_head_and_304_keep_their_length_and_204_has_none() {
    let stub = bodiless();
    let gateway = gateway_and("", &[&stub]);
    let stream = begin(gateway.listen, b"");
    let mut reader = BufReader::new(&stream);
    // One connection: an answer that was taken to have a body would swallow the next.
    for (line, _, length) in BODILESS {
        (&stream).write_all(&request(line, &[], b"")).unwrap();
        let reply = read_reply(&mut reader, true).unwrap_or_else(|| panic!("no answer to {line}"));
        assert_eq!(reply.header("content-length"), length, "{line}");
        let framed = reply.header("transfer-encoding").is_some();
        assert!(!framed || line == "HEAD /chunks", "{line}: {reply:?}");
    }
}

fn http_30_over_http2_too() {
    use http_body_util::BodyExt;
    let stub = bodiless();
    let gateway = gateway_and("", &[&stub]);
    super::http2::with_client(gateway.listen, async |mut sender| {
        for (line, _, length) in BODILESS {
            let (method, path) = line.split_once(' ').unwrap();
            let request = http::Request::builder().method(method).uri(format!("http://a{path}"));
            let response =
                sender.send_request(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
            let got =
                response.headers().get("content-length").map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(got.as_deref(), length, "{line}");
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    });
}

/// There is no dataserver, and no such request.
fn http_30_the_gateways_own_answer_to_head_over_http2() {
    use http_body_util::BodyExt;
    let gateway = Apiserver::start("limits: {headers: 20}\n");
    super::http2::with_client(gateway.listen, async |mut sender| {
        for (fields, status) in [(0, 503), (30, 431)] {
            let head = http::Request::builder().method("HEAD").uri("http://a/");
            let head = (0..fields).fold(head, |head, _| head.header("x-many", "1"));
            let request = head.body(http_body_util::Full::default()).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), status);
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    });
}

fn http_32_a_head_over_the_limits_is_502() {
    let fields = "x: 1\r\n".repeat(200);
    let long = format!("x: {}\r\n", "a".repeat(20_000));
    for fields in [fields, long] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n").into_bytes();
        let stub = Stub::answering(move |_| answer.clone());
        let gateway = gateway_and("limits: {headers: 100, head_bytes: 8192}\n", &[&stub]);
        assert_problem(&get(gateway.listen, "/"), 502, "http_protocol_error");
    }
}

fn http_32_what_precedes_http10_is_502() {
    let stub = Stub::raw(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"<html>from before heads were thought of</html>\r\n\r\n");
    });
    let gateway = gateway_and("", &[&stub]);
    assert_problem(&get(gateway.listen, "/"), 502, "http_protocol_error");
}

/// A dataserver that breaks off in the middle of its answer once it is told to.
fn breaking(head: &'static [u8]) -> Stub {
    Stub::raw(move |stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        let _ = (&stream).write_all(head);
        // The user has the beginning, so that what it sees next is the end and nothing else.
        pause(Duration::from_millis(200));
    })
}

const BROKEN: [&[u8]; 2] = [
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n12345",
];

/// The end of the connection is the end of the answer, so that it must not look like one.
/// Nothing else tells it from a whole answer, whoever cut it off: the gateway for a reader that does not read, or at the end of
/// its drain, or whoever killed the gateway.
fn http_35_an_http10_user_who_is_cut_off_sees_a_reset_and_no_end() {
    const CHUNK: [u8; 16384] = [b'x'; 16384];
    let stub = Stub::raw(|stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while [&b"4000\r\n"[..], &CHUNK, b"\r\n"].iter().all(|part| (&stream).write_all(part).is_ok()) {
            pause(Duration::from_millis(1));
        }
    });
    for end in ["not reading", "TERM", "KILL"] {
        let config = "timeouts: {idle_body: 500ms, drain: 500ms}\n";
        let gateway = gateway_and(config, &[&stub]);
        let mut stream = begin(gateway.listen, b"GET / HTTP/1.0\r\n\r\n");
        eventually("it to be under way", || {
            (gateway.metric("gateway_requests_in_flight") >= 1.0).then_some(())
        });
        if end == "not reading" {
            eventually("it to be cut", || (gateway.metric("gateway_requests_in_flight") < 1.0).then_some(()));
        } else {
            stream.read_exact(&mut [0; 1]).unwrap();
            gateway.process.signal(end);
        }
        let ended = stream.read_to_end(&mut Vec::new());
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{end}");
    }
}

fn http_35_an_http10_user_sees_a_reset_and_no_end() {
    for answer in BROKEN {
        let stub = breaking(answer);
        let gateway = gateway_and("", &[&stub]);
        for connection in ["", "Connection: keep-alive\r\n"] {
            let mut stream = begin(gateway.listen, format!("GET / HTTP/1.0\r\n{connection}\r\n").as_bytes());
            let mut got = Vec::new();
            let ended = stream.read_to_end(&mut got);
            let got = String::from_utf8(got).unwrap();
            let has_length = got.to_ascii_lowercase().contains("content-length: 1000");
            let reset = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
            assert!(reset || has_length, "an end as if it were whole: {got}");
        }
    }
}

/// The kernel tells once that a connection was reset, and it is the upload that is told; after that there is nothing more to
/// read, as at the end of an answer.
fn http_35_a_reset_that_an_upload_meets_is_no_end_of_an_answer() {
    let (reset, was_reset) = mpsc::channel();
    let stub = Stub::raw(move |stream| {
        let mut reader = BufReader::new(&stream);
        let _ = read_head(&mut reader);
        let _ = reader.read_exact(&mut [0; 100]);
        // More than the gateway takes while its user reads nothing.
        stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        let more = vec![b'a'; 65536];
        while (&stream).write_all(&more).is_ok() {}
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        let _ = reset.send(());
    });
    let gateway = gateway_and("", &[&stub]);
    let half = [b'u'; 100];
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200\r\n\r\n";
    let mut user = begin(gateway.listen, &[&head[..], &half].concat());
    was_reset.recv_timeout(Duration::from_secs(20)).unwrap();
    user.write_all(&half).unwrap();
    pause(Duration::from_millis(300)); // for the upload to be the first to know
    let mut got = Vec::new();
    let _ = user.read_to_end(&mut got);
    assert!(got.starts_with(b"HTTP/1.1 200 OK\r\n") && got.len() > 65536);
    assert!(!got.ends_with(b"\r\n0\r\n\r\n"), "an end as if it were whole, after {} bytes", got.len());
    eventually("the failure to be counted", || (errors(&gateway, &stub, "body") > 0.0).then_some(()));
}

/// A user who reads slowly has asked for more by the time that its connection has to end.
fn http_35_an_answer_is_whole_though_the_one_behind_it_breaks_off() {
    let whole = 300_000;
    let stub = Stub::raw(move |stream| {
        let mut reader = BufReader::new(&stream);
        while let Some((first, _)) = read_head(&mut reader) {
            let (length, sent) = if first.starts_with("GET /whole") { (whole, whole) } else { (100, 4) };
            let _ = (&stream)
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes());
            let _ = (&stream).write_all(&vec![b'a'; sent]);
            if sent < length {
                return;
            }
        }
    });
    let gateway = gateway_and("", &[&stub]);
    let user = connect(gateway.listen);
    SockRef::from(&user).set_recv_buffer_size(8 * 1024).unwrap();
    for path in ["GET /whole", "GET /broken", "POST /more"] {
        let body = if path.starts_with("POST") { vec![b'u'; 60_000] } else { Vec::new() };
        (&user).write_all(&request(path, &[], &body)).unwrap();
    }
    eventually("the second to break off", || (errors(&gateway, &stub, "body") > 0.0).then_some(()));
    pause(Duration::from_millis(200)); // for the end of its connection
    let mut reader = BufReader::new(&user);
    let reply = read_reply(&mut reader, false).unwrap();
    assert_eq!((reply.body.len(), reply.complete), (whole, true));
    let reply = read_reply(&mut reader, false).unwrap();
    assert_eq!((reply.body.len(), reply.complete), (4, false));
}

fn http_35_an_http2_user_sees_a_reset_of_the_stream() {
    for answer in BROKEN {
        let stub = breaking(answer);
        let gateway = gateway_and("", &[&stub]);
        let mut frames = Frames::connect(gateway.listen, b"");
        frames.request(1, &GET, false);
        let ended = frames.end_of(1);
        assert!(matches!(ended, Ended::Reset(_)), "{ended:?}");
        frames.request(3, &GET, false);
        assert!(matches!(frames.end_of(3), Ended::Reset(_)), "the connection goes on");
    }
}

fn http_36_what_follows_an_answer_is_dropped_with_its_connection() {
    for rest in ["junk", "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"] {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine{rest}").into_bytes();
        let stub = Stub::answering(move |_| answer.clone());
        let gateway = gateway_and("gateway: {workers: 1}\n", &[&stub]);
        for n in 1..=10 {
            assert_eq!(get(gateway.listen, "/").text(), "fine");
            assert_eq!(stub.connections(), n);
        }
    }
}

/// A dataserver that sends a body where there can be none: what follows is not the next user's answer.
/// Some servers send a body behind a 204, in a write of its own. The next request may already be there.
fn http_36_a_body_that_cannot_be_and_comes_late_is_nobodys_answer() {
    for length in ["content-length: 43", "transfer-encoding: chunked"] {
        let stub = Stub::raw(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some((first, _)) = read_head(&mut reader) {
                if first.starts_with("GET /fine") {
                    let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine");
                    continue;
                }
                let _ =
                    (&stream).write_all(format!("HTTP/1.1 204 No Content\r\n{length}\r\n\r\n").as_bytes());
                pause(Duration::from_millis(5));
                let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison");
            }
        });
        let gateway = gateway_and("gateway: {workers: 1}\n", &[&stub]);
        for _ in 0..10 {
            let both = [request("GET /odd", &[], b""), request("GET /fine", &[], b"")].concat();
            let mut reader = BufReader::new(begin(gateway.listen, &both));
            assert_eq!(read_reply(&mut reader, true).unwrap().status, 204);
            assert_eq!(read_reply(&mut reader, false).unwrap().text(), "fine", "{length}");
        }
    }
}

fn http_36_a_body_that_cannot_be_is_dropped_with_its_connection() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    for status in ["200 OK", "304 Not Modified", "204 No Content"] {
        let stub = Stub::answering(move |exchange| {
            if exchange.first.starts_with("GET /fine") {
                return b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine".to_vec();
            }
            format!("HTTP/1.1 {status}\r\netag: x\r\n\r\n{ANSWER}").into_bytes()
        });
        let gateway = gateway_and("gateway: {workers: 1}\n", &[&stub]);
        for _ in 0..20 {
            let method = if status == "200 OK" { "HEAD" } else { "GET" };
            let odd = request(&format!("{method} /odd"), &[("connection", "close")], b"");
            let odd = exchange(gateway.listen, &odd);
            assert_eq!((odd.status, odd.body.len()), (status[..3].parse().unwrap(), 0));
            assert_eq!(get(gateway.listen, "/fine").text(), "fine");
        }
    }
}

/// A dataserver that has seen enough after the head. It closes at once, with the rest unread, or when the gateway does.
fn refusing_uploads(waits: bool) -> Stub {
    Stub::raw(move |stream| {
        let mut reader = BufReader::with_capacity(64, &stream);
        let _ = read_head(&mut reader);
        let _ = (&stream)
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\nconnection: close\r\n\r\ntoo large");
        if waits {
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
        }
    })
}

/// Begins an upload of 100 MB and reads the answer when a part of it was sent, or can no longer be sent.
fn upload_begun(gateway: &Apiserver, size: usize) -> Reply {
    let stream = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n");
    let mut sent = 0;
    while sent < size && (&stream).write_all(&[b'x'; 10_000]).is_ok() {
        sent += 10_000;
    }
    let reply = read_reply(&mut BufReader::new(&stream), false);
    reply.unwrap_or_else(|| panic!("no answer to an upload of which {sent} bytes were sent"))
}

/// What was sent before the answer was seen must not make the kernel drop the answer: the user writes up to 1 MiB
/// before it reads.
fn http_37_an_early_answer_reaches_a_user_who_still_sends() {
    let stub = refusing_uploads(true);
    let gateway = gateway_and("", &[&stub]);
    for n in 0..100 {
        let reply = upload_begun(&gateway, [10_000, 100_000, 1_000_000][n % 3]);
        assert_eq!(
            (reply.status, reply.text().as_str(), reply.complete),
            (413, "too large", true),
            "upload {n}"
        );
    }
}

/// A dataserver that closes on what it has not read may lose its own answer; the user gets one all the same.
fn http_37_a_dataserver_that_closes_on_an_upload_is_an_answer_too() {
    let stub = refusing_uploads(false);
    let gateway = gateway_and("", &[&stub]);
    for n in 0..100 {
        let reply = upload_begun(&gateway, [10_000, 100_000, 1_000_000][n % 3]);
        assert!(reply.complete && [413, 502].contains(&reply.status), "upload {n}: {reply:?}");
    }
}

/// The rest that is read and dropped has a bound.
fn http_37_a_user_who_never_stops_is_cut() {
    let stub = refusing_uploads(true);
    let gateway = gateway_and("", &[&stub]);
    let stream = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000000\r\n\r\n");
    stream.set_write_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut sent = 0u64;
    let ended = loop {
        match (&stream).write_all(&[b'x'; 16384]) {
            Ok(()) => sent += 16384,
            Err(error) => break error.kind(),
        }
        assert!(sent < 1 << 30, "a GiB was taken after the answer");
    };
    assert_ne!(ended, std::io::ErrorKind::WouldBlock, "the connection is still open");
    // Slowly is no way around the bound.
    let stream = begin(gateway.listen, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000000\r\n\r\n");
    eventually("a slow one to be cut, too", || (&stream).write_all(b"x").is_err().then_some(()));
}
