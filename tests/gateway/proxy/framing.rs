//! Rows 10 to 19: where a request ends and the next begins.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Trial;

use super::{Strict, assert_refusal, begin, gateway_and, is_over, through, wait_for_in_flight};
use crate::support::{Stub, eventually, pause, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        http_10_a_length_and_chunks_are_400_and_the_connection_ends,
        http_10_also_behind_another_request,
        http_11_a_length_that_is_none_is_400,
        http_11_a_length_that_is_repeated_is_one_at_most,
        http_12_chunks_in_http10_or_not_last_are_400,
        http_13_any_coding_but_chunked_is_501,
        http_14_a_chunk_that_is_none_is_400_and_never_whole,
        http_14_a_malformed_chunk_ends_an_answer_that_has_begun,
        http_16_a_request_that_breaks_off_is_never_whole_for_the_dataserver,
        http_17_a_get_with_a_chunked_body_is_delivered_whole,
        http_18_no_framing_is_added_to_a_get_without_a_body,
        http_19_pipelined_requests_are_answered_in_order,
    ]
}

fn http_16_a_request_that_breaks_off_is_never_whole_for_the_dataserver() {
    for head in ["content-length: 100\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"] {
        let stub = Stub::ok("");
        let gateway = gateway_and("", &[&stub]);
        let mut stream = TcpStream::connect(gateway.listen).unwrap();
        stream.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{head}").as_bytes()).unwrap();
        pause(Duration::from_millis(100));
        drop(stream);
        eventually("the dataserver to see it end", || (!stub.requests().is_empty()).then_some(()));
        assert!(!stub.requests()[0].complete, "{:?}", stub.requests());
    }
}

fn http_17_a_get_with_a_chunked_body_is_delivered_whole() {
    for method in ["GET", "POST", "DELETE"] {
        let head = format!(
            "{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let (reply, reached) = through(&[head.as_bytes(), b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"].concat());
        assert_eq!(reply.status, 200);
        assert_eq!((reached[0].body.as_slice(), reached[0].complete), (&b"abcde"[..], true), "{method}");
    }
}

fn http_18_no_framing_is_added_to_a_get_without_a_body() {
    let (_, reached) = through(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(
        reached[0].header("content-length").is_empty() && reached[0].header("transfer-encoding").is_empty()
    );
    let (_, reached) =
        through(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(reached[0].header("content-length"), ["0"]);
}

fn http_19_pipelined_requests_are_answered_in_order() {
    let stub = Stub::answering(|exchange| {
        let path = exchange.first.split(' ').nth(1).unwrap();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into_bytes()
    });
    let gateway = gateway_and("", &[&stub]);
    let mut stream = std::net::TcpStream::connect(gateway.listen).unwrap();
    let requests: Vec<u8> = (0..10).flat_map(|n| request(&format!("GET /{n}"), &[], b"")).collect();
    stream.write_all(&requests).unwrap();
    let mut reader = BufReader::new(stream);
    for n in 0..10 {
        assert_eq!(read_reply(&mut reader, false).unwrap().text(), format!("/{n}"));
    }
}

const BOTH: &[u8] =
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";

fn http_10_a_length_and_chunks_are_400_and_the_connection_ends() {
    let strict = Strict::new("");
    strict.refuses_and_closes(BOTH, &[400]);
    let turned =
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n";
    strict.refuses_and_closes(turned, &[400]);
    let zero =
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    strict.refuses_and_closes(zero, &[400]);
}

fn http_10_also_behind_another_request() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let stream = begin(
        gateway.listen,
        &[&request("GET /first", &[], b""), BOTH, &request("GET /last", &[], b"")].concat(),
    );
    let mut reader = BufReader::new(&stream);
    assert_eq!(read_reply(&mut reader, false).unwrap().status, 200);
    let reply = read_reply(&mut reader, false).unwrap();
    assert_refusal(&reply, &[400], "the second");
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(is_over(&mut reader));
    let reached: Vec<_> = stub.requests().into_iter().map(|request| request.first).collect();
    assert_eq!(reached, ["GET /first HTTP/1.1"]);
}

fn with_length(fields: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n\r\nhello").into_bytes()
}

fn http_11_a_length_that_is_none_is_400() {
    let strict = Strict::new("");
    let lengths = [
        "+5",
        "-5",
        "0x5",
        "5x",
        "5 5",
        "5.0",
        "",
        "18446744073709551621",
        "99999999999999999999999",
        "5, 6",
        "5;6",
    ];
    for length in lengths {
        strict.refuses_and_closes(&with_length(&format!("Content-Length: {length}")), &[400]);
    }
    strict.refuses_and_closes(&with_length("Content-Length: 5\r\nContent-Length: 6"), &[400]);
    strict.refuses_and_closes(&with_length("Content-Length: 0\r\nContent-Length: 5"), &[400]);
}

/// RFC 9112 §6.3: the same length said twice may be refused, or made one; never passed on as it is.
fn http_11_a_length_that_is_repeated_is_one_at_most() {
    for fields in ["Content-Length: 5, 5", "Content-Length: 5\r\nContent-Length: 5", "Content-Length: 005"] {
        let (reply, reached) = through(&with_length(fields));
        if reply.status == 200 {
            let length = reached[0].header("content-length");
            assert!(length == ["5"] || length == ["005"], "{length:?}");
            assert_eq!(reached[0].body, b"hello");
        } else {
            assert_refusal(&reply, &[400], fields);
            assert!(reached.is_empty());
        }
    }
}

fn http_12_chunks_in_http10_or_not_last_are_400() {
    let strict = Strict::new("");
    strict.refuses_and_closes(
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[400],
    );
    for coding in ["chunked, gzip", "gzip", "chunked, identity", "identity"] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        strict.refuses_and_closes(head.as_bytes(), &[400, 501]);
    }
}

fn http_13_any_coding_but_chunked_is_501() {
    let strict = Strict::new("");
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "xchunked",
        "xchunked, chunked",
        "\"chunked\"",
        "chunked;q=1",
        "gzip\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        strict.refuses_and_closes(head.as_bytes(), &[400, 501]);
    }
}

fn http_14_a_chunk_that_is_none_is_400_and_never_whole() {
    let huge = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(100_000));
    for chunks in [
        "0x1\r\na\r\n0\r\n\r\n",
        "1_0\r\na\r\n0\r\n\r\n",
        "\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "10000000000000001\r\na\r\n0\r\n\r\n",
        "g\r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        &huge,
    ] {
        // Whether it comes with the head, or after the dataserver was chosen.
        for apart in [false, true] {
            let stub = Stub::ok("");
            let gateway = gateway_and("", &[&stub]);
            let mut stream =
                begin(gateway.listen, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
            if apart {
                eventually("the dataserver to be chosen", || (stub.connections() > 0).then_some(()));
            }
            let _ = stream.write_all(chunks.as_bytes());
            let shown = super::shown(chunks.as_bytes());
            let mut reader = BufReader::new(&stream);
            let reply = read_reply(&mut reader, false).unwrap_or_else(|| panic!("no answer to {shown}"));
            assert_refusal(&reply, &[400], &shown);
            assert_eq!(reply.header("connection"), Some("close"), "{shown}");
            assert!(is_over(&mut reader), "{shown}");
            // A dataserver that had been chosen has seen the end of it by the time that nothing is under way.
            wait_for_in_flight(&gateway, 0);
            pause(Duration::from_millis(20));
            assert!(
                stub.requests().iter().all(|request| !request.complete),
                "{shown}: {:?}",
                stub.requests()
            );
        }
    }
}

/// What was begun with a 200 cannot become a 400: the user sees it break off.
fn http_14_a_malformed_chunk_ends_an_answer_that_has_begun() {
    let stub = Stub::raw(|stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = crate::support::read_head(&mut reader);
        let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345");
        let _ = std::io::copy(&mut reader, &mut std::io::sink());
    });
    let gateway = gateway_and("timeouts: {idle_body: 2s}\n", &[&stub]);
    let mut stream =
        begin(gateway.listen, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (first, headers) = crate::support::read_head(&mut reader).unwrap();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    stream.write_all(b"0x1\r\na\r\n0\r\n\r\n").unwrap();
    let (body, complete) = crate::support::read_body(&mut reader, &headers, true);
    assert!(body == b"12345" && !complete);
}
