//! Streams that a dataserver refuses before it has taken their requests.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use libtest_mimic::Trial;

use super::{gateway_and, gateway_of};
use crate::support::h2_stub::Connections;
use crate::support::{H2Stub, Stub, exchange, post, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        a_refused_stream_goes_to_another_with_its_body,
        also_if_the_body_came_in_many_parts,
        http_15_a_refused_stream_goes_to_another_with_its_trailers,
    ]
}

/// Counts requests, and resets each.
fn refusing() -> (H2Stub, Arc<AtomicUsize>) {
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    let stub = H2Stub::raw(Connections::default(), move |_, mut respond| {
        counted.fetch_add(1, Ordering::SeqCst);
        respond.send_reset(Reason::REFUSED_STREAM);
        Box::pin(async {})
    });
    (stub, refused)
}

fn a_refused_stream_goes_to_another_with_its_body() {
    // More than the stub's window: the rest waits for room.
    let body = vec![b'x'; 66_000];
    let (refuses, refused) = refusing();
    let (two, one) = (H2Stub::ok("two"), Stub::ok("one"));
    for gateway in [gateway_of(&[&refuses, &two], &[]), gateway_of(&[&refuses], &[&one])] {
        let before = refused.load(Ordering::SeqCst);
        for _ in 0..20 {
            assert_eq!(post(gateway.listen, "/", &body).status, 200);
        }
        assert!(refused.load(Ordering::SeqCst) > before, "nothing was refused");
        assert!(gateway.metric("gateway_retries_total{reason=\"refused\"}") > 0.0);
    }
    assert!(two.requests().len() == 20 && two.requests().iter().all(|request| request.body == body));
    assert!(one.requests().len() == 20 && one.requests().iter().all(|request| request.body == body));
    let reply = post(gateway_and(&refuses).listen, "/", &body);
    assert_eq!((reply.status, reply.complete), (503, true));
    assert!(reply.header("proxy-status").unwrap().contains("connection_limit_reached"), "{reply:?}");
}

/// A dataserver of HTTP/1 that knows how many uploads came to it with the trailer that [`http_15_…`] sends.
///
/// [`http_15_…`]: http_15_a_refused_stream_goes_to_another_with_its_trailers
fn taking_trailers() -> (Stub, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let stub = Stub::raw(move |mut stream| {
        let (mut got, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            got.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&got).into_owned();
            if text.contains("transfer-encoding: chunked\r\n") && text.ends_with("0\r\nx-sum: 7\r\n\r\n") {
                counted.fetch_add(1, Ordering::SeqCst);
                got.clear();
            } else if !text.contains("\r\n\r\n0\r\n\r\n") && !text.ends_with("upload") {
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    (stub, taken)
}

fn http_15_a_refused_stream_goes_to_another_with_its_trailers() {
    let (refuses, refused) = refusing();
    let (two, (one, taken)) = (H2Stub::ok("two"), taking_trailers());
    for gateway in [gateway_of(&[&refuses, &two], &[]), gateway_of(&[&refuses], &[&one])] {
        let before = refused.load(Ordering::SeqCst);
        for n in 0..20 {
            let chunk = if n % 2 == 0 { "6\r\nupload\r\n" } else { "" };
            let upload = format!(
                "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
                 {chunk}0\r\nx-sum: 7\r\n\r\n"
            );
            assert_eq!(exchange(gateway.listen, upload.as_bytes()).status, 200, "upload {n}");
        }
        assert!(refused.load(Ordering::SeqCst) > before, "nothing was refused");
    }
    assert_eq!((two.requests().len(), taken.load(Ordering::SeqCst)), (20, 20));
    for (n, request) in two.requests().iter().enumerate() {
        assert_eq!(request.body, if n % 2 == 0 { &b"upload"[..] } else { b"" });
        assert_eq!(request.trailers.as_ref().map(|trailers| &trailers["x-sum"]), Some(&"7".parse().unwrap()));
    }
}

fn also_if_the_body_came_in_many_parts() {
    let ((refuses, refused), two) = (refusing(), H2Stub::ok("two"));
    let gateway = gateway_of(&[&refuses, &two], &[]);
    // Much smaller parts would cost the stub's connection: h2 counts them.
    let parts: Vec<_> = (0..40).map(|n| format!("{n:0300}")).collect();
    let chunks: Vec<_> = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
    let upload = format!(
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunks.concat()
    );
    for n in 0..20 {
        assert_eq!(exchange(gateway.listen, upload.as_bytes()).status, 200, "upload {n}");
    }
    assert!(refused.load(Ordering::SeqCst) > 0, "nothing was refused");
    let whole = parts.concat();
    assert!(
        two.requests().len() == 20 && two.requests().iter().all(|request| request.body == whole.as_bytes())
    );
}
