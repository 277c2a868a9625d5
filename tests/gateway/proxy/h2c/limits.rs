//! A dataserver's limit of streams that changes under requests.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::frames::{Frame, Frames, PREFACE, flag, frame, kind};
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, connect, eventually, get, pause, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![a_limit_that_falls_holds_no_request_back]
}

/// A stub whose limit of streams the test sets.
struct Limited {
    stub: Stub,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Limited {
    /// Answers each request when all of it has come.
    fn new() -> Self {
        let connections = Arc::<Mutex<Vec<TcpStream>>>::default();
        let opened = connections.clone();
        let stub = Stub::raw(move |stream| {
            opened.lock().unwrap().push(stream.try_clone().unwrap());
            let mut frames = Frames { stream };
            if frames.stream.read_exact(&mut [0; PREFACE.len()]).is_err() {
                return;
            }
            frames.send(kind::SETTINGS, 0, 0, b"");
            while let Some(Frame { kind, flags, stream, payload }) = frames.read() {
                match kind {
                    kind::HEADERS | kind::DATA if flags & flag::END_STREAM != 0 => {
                        frames.send(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &[0x88]);
                    }
                    kind::SETTINGS if flags == 0 => drop(frames.send(kind, 1, 0, b"")),
                    kind::PING if flags == 0 => drop(frames.send(kind, 1, 0, &payload)),
                    _ => {}
                }
            }
        });
        Self { stub, connections }
    }

    /// On every connection that there is.
    fn set(&self, max_streams: u32) {
        let [a, b, c, d] = max_streams.to_be_bytes();
        for stream in &mut *self.connections.lock().unwrap() {
            // It may have ended.
            let _ = stream.write_all(&frame(kind::SETTINGS, 0, 0, &[0, 3, a, b, c, d]));
        }
    }
}

/// Stops every thread of it.
fn stop(gateway: &Apiserver) {
    gateway.process.signal("STOP");
    let threads = format!("/proc/{}/task", gateway.process.id());
    eventually("all to stand still", || {
        let mut threads = std::fs::read_dir(&threads).unwrap();
        threads
            .all(|thread| {
                let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
                status.contains("State:\tT")
            })
            .then_some(())
    });
}

fn a_limit_that_falls_holds_no_request_back() {
    let (limited, other) = (Limited::new(), H2Stub::ok(""));
    let config = "gateway: {workers: 1}\ntimeouts: {response_head: 3s}\n";
    let gateway = Apiserver::start(&format!("{PATIENT}{config}"));
    gateway.announce_h2c(&[limited.stub.addr(), other.addr()]);
    for round in 0..4 {
        limited.set(100);
        let mut users: Vec<_> = (0..16).map(|_| BufReader::new(connect(gateway.listen))).collect();
        let ask = |user: &mut BufReader<TcpStream>, n: usize| {
            let asked = if n.is_multiple_of(2) {
                request("GET /", &[], b"")
            } else {
                request("POST /", &[], b"once")
            };
            user.get_mut().write_all(&asked).unwrap();
        };
        for (n, user) in users.iter_mut().enumerate() {
            ask(user, n);
            assert_eq!(read_reply(user, false).unwrap().status, 200);
        }
        // The requests and the lower limit come at the same moment.
        stop(&gateway);
        users.iter_mut().enumerate().for_each(|(n, user)| ask(user, n));
        // In another order nothing would be shown, and nothing would fail.
        let in_this_order = || pause(Duration::from_millis(50));
        in_this_order();
        limited.set(0);
        in_this_order();
        gateway.process.signal("CONT");
        for (n, user) in users.iter_mut().enumerate() {
            let reply = read_reply(user, false).unwrap();
            assert_eq!(reply.status, 200, "{n} in round {round}: {}", reply.text());
        }
    }
    assert_eq!(get(gateway.listen, "/").status, 200);
    assert!(!gateway.metrics().contains("gateway_upstream_errors_total{"), "{}", gateway.metrics());
}
