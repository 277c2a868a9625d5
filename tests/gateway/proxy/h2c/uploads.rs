//! Uploads that a user breaks off, and those that a dataserver does not read.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::Response;
use libtest_mimic::Trial;
use tokio::sync::Semaphore;

use super::messages::{h2_request, with_h2};
use super::{gateway_and, gateway_with};
use crate::support::h2_stub::{Connections, take};
use crate::support::{Apiserver, H2Stub, PATIENT, connect, post, request, trials, within};

pub fn trials() -> Vec<Trial> {
    trials![
        http_49_the_user_goes_and_the_stream_is_reset,
        http_49_also_if_the_answer_comes_as_the_user_goes,
        http_49_uploads_that_a_dataserver_answers_early_hold_no_streams,
        http_49_nor_do_those_of_which_all_but_the_end_had_room,
        http_16_an_upload_cut_short_is_never_whole,
    ]
}

/// What a stub sees of a stream.
#[derive(Debug, PartialEq)]
enum Seen {
    Begun,
    Reset(Reason),
}

/// Waits for what a stub sees, while the client goes on.
async fn next(seen: &mpsc::Receiver<Seen>) -> Seen {
    let next = async {
        loop {
            if let Ok(seen) = seen.try_recv() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), next).await.expect("nothing is seen")
}

/// A stub that answers with a head, or never, and tells of each stream.
fn waiting(answers: bool) -> (H2Stub, mpsc::Receiver<Seen>) {
    let (sender, seen) = mpsc::channel();
    let stub = H2Stub::raw(Connections::default(), move |request, mut respond| {
        let sender = sender.clone();
        sender.send(Seen::Begun).unwrap();
        Box::pin(async move {
            let _upload = request;
            let reset = if answers {
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                std::future::poll_fn(|cx| stream.poll_reset(cx)).await
            } else {
                std::future::poll_fn(|cx| respond.poll_reset(cx)).await
            };
            sender.send(Seen::Reset(reset.unwrap())).unwrap();
        })
    });
    (stub, seen)
}

fn http_49_the_user_goes_and_the_stream_is_reset() {
    let chunked = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    for answers in [false, true] {
        for bytes in [&request("GET /", &[], b"")[..], chunked] {
            let what = format!("answers: {answers}, {}", String::from_utf8_lossy(bytes));
            let (stub, seen) = waiting(answers);
            let gateway = gateway_and(&stub);
            let mut stream = connect(gateway.listen);
            stream.write_all(bytes).unwrap();
            assert_eq!(within(Duration::from_secs(10), &what, || seen.try_recv().ok()), Seen::Begun);
            if answers {
                stream.read_exact(&mut [0; 12]).unwrap();
            }
            stream.shutdown(Shutdown::Both).unwrap();
            within(Duration::from_secs(3), &what, || seen.try_recv().ok());
        }
        // One is more than the stub makes room for.
        for upload_size in [1, 100_000] {
            let (stub, seen) = waiting(answers);
            let gateway = gateway_and(&stub);
            with_h2(gateway.listen, async |mut sender| {
                let (answer, mut upload) = sender.send_request(h2_request("POST"), false).unwrap();
                upload.send_data(Bytes::from(vec![b'x'; upload_size]), false).unwrap();
                let begun = next(&seen).await;
                let answer = if answers { Err(answer.await.unwrap()) } else { Ok(answer) };
                upload.send_reset(Reason::CANCEL);
                let reset = next(&seen).await;
                assert_eq!((begun, reset), (Seen::Begun, Seen::Reset(Reason::CANCEL)));
                drop(answer);
            });
        }
    }
}

/// The answer comes at the moment that the user goes: the gateway learns of both at once.
fn http_49_also_if_the_answer_comes_as_the_user_goes() {
    let (sender, seen) = mpsc::channel();
    let gate = Arc::new(Semaphore::new(0));
    let opens = gate.clone();
    // It makes room for little, and reads nothing.
    let stub = H2Stub::raw(
        Connections { window: Some(100), ..Connections::default() },
        move |request, mut respond| {
            let (sender, gate) = (sender.clone(), opens.clone());
            sender.send(Seen::Begun).unwrap();
            Box::pin(async move {
                let _upload = request;
                gate.acquire().await.unwrap().forget();
                let mut stream = respond.send_response(Response::new(()), true).unwrap();
                let reset = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                sender.send(Seen::Reset(reset.unwrap())).unwrap();
            })
        },
    );
    let gateway = gateway_with("gateway: {workers: 1}\n", &stub);
    with_h2(gateway.listen, async |mut client| {
        let (answer, mut upload) = client.send_request(h2_request("POST"), false).unwrap();
        upload.send_data(Bytes::from(vec![b'x'; 100_000]), false).unwrap();
        assert_eq!(next(&seen).await, Seen::Begun);
        gateway.process.signal("STOP");
        upload.send_reset(Reason::CANCEL);
        tokio::time::sleep(Duration::from_millis(100)).await; // for it to be there first
        gate.add_permits(1);
        tokio::time::sleep(Duration::from_millis(100)).await;
        gateway.process.signal("CONT");
        assert_eq!(next(&seen).await, Seen::Reset(Reason::CANCEL));
        drop(answer);
    });
}

/// Nor reads them, nor says so.
fn http_49_uploads_that_a_dataserver_answers_early_hold_no_streams() {
    let stub = H2Stub::raw(Connections::default(), |request, mut respond| {
        Box::pin(async move {
            let _ = respond.send_response(Response::new(()), true);
            let _upload = request;
            std::future::pending::<()>().await;
        })
    });
    let gateway =
        Apiserver::start(&format!("{PATIENT}limits: {{h2c_connections: 1}}\ngateway: {{workers: 1}}\n"));
    gateway.announce_h2c(&[stub.addr()]);
    // A connection has 128 streams.
    for n in 0..140 {
        let reply = post(gateway.listen, "/", &vec![b'x'; 100_000]);
        assert_eq!(reply.status, 200, "{n}: {}", reply.text());
    }
    assert_eq!(stub.connections().0, 1);
}

fn http_49_nor_do_those_of_which_all_but_the_end_had_room() {
    const ROOM: usize = 65_535;
    // Of the second kind the answers are refused for their fields.
    for (fields, status) in [(0, 200), (200, 502)] {
        let stub = H2Stub::raw(Connections::default(), move |request, mut respond| {
            Box::pin(async move {
                let (mut upload, mut got) = (request.into_body(), 0);
                while got < ROOM {
                    let Some(Ok(part)) = upload.data().await else { return };
                    got += part.len();
                }
                let head = (0..fields).fold(Response::builder(), |head, _| head.header("x-many", "1"));
                let _ = respond.send_response(head.body(()).unwrap(), true);
                // Nothing more comes but a reset.
                while let Some(Ok(_)) = upload.data().await {}
            })
        });
        let config = "limits: {h2c_connections: 1}\ngateway: {workers: 1}\ntimeouts: {response_head: 2s}\nregistry: {ttl: 1h, ejection: {failures: 0}}\n";
        let gateway = Apiserver::start(config);
        gateway.announce_h2c(&[stub.addr()]);
        for n in 0..20 {
            // Most likely the last piece is larger than what there is no room for.
            let reply = post(gateway.listen, "/", &vec![b'x'; ROOM + 5]);
            assert_eq!(reply.status, status, "{n}: {}", reply.text());
        }
    }
}

/// A stub that answers at once, with or without the end of the answer, then takes the upload and tells whether it was whole.
fn answering_early(ends: bool) -> (H2Stub, mpsc::Receiver<bool>) {
    let (sender, whole) = mpsc::channel();
    let stub = H2Stub::raw(Connections::default(), move |request, mut respond| {
        let sender = sender.clone();
        Box::pin(async move {
            let _answer = respond.send_response(Response::new(()), ends).unwrap();
            sender.send(take(request).await.is_some()).unwrap();
        })
    });
    (stub, whole)
}

fn http_16_an_upload_cut_short_is_never_whole() {
    for (reason, ends) in [(Reason::CANCEL, true), (Reason::NO_ERROR, true), (Reason::CANCEL, false)] {
        let (stub, whole) = answering_early(ends);
        let gateway = gateway_and(&stub);
        with_h2(gateway.listen, async |mut sender| {
            let (answer, mut upload) = sender.send_request(h2_request("POST"), false).unwrap();
            upload.send_data(Bytes::from_static(b"half"), false).unwrap();
            let _answer = answer.await.unwrap();
            upload.send_reset(reason);
            let wait = move || within(Duration::from_secs(10), "its end", || whole.try_recv().ok());
            assert!(!tokio::task::spawn_blocking(wait).await.unwrap(), "{reason:?}");
        });
    }
}
