//! TLS on `gateway.listen`: what is spoken in it, what a bad client gets, and certificates that change.

use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use libtest_mimic::Trial;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::support::tls::{Pair, client, exchange_on, go_on, handshake, handshake_on, session, shown};
use crate::support::{
    Apiserver, PATIENT, Stub, connect, ends, eventually, pause, read_head, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        alpn_chooses_http2_or_http11,
        a_client_without_alpn_is_told_by_its_first_bytes,
        tls12_and_tls13_are_spoken_and_sessions_resumed,
        large_bodies_pass_both_ways_unchanged,
        an_answer_that_begins_early_holds_up_no_upload_and_no_upload_holds_it_up,
        http_28_a_tunnel_carries_a_large_message_to_a_reader_that_is_late,
        a_failed_handshake_is_counted_and_harms_nobody,
        a_handshake_that_does_not_end_is_cut_off,
        a_reader_that_stops_is_cut_off,
        a_drain_ends_encrypted_connections_and_begun_handshakes,
        http_50_a_handshake_that_was_begun_before_the_drain_leads_to_an_answer,
        proxy_protocol_comes_before_the_handshake,
        a_certificate_written_in_place_is_used,
        a_certificate_renamed_into_place_is_used,
        a_certificate_behind_a_swapped_link_is_used,
        a_broken_pair_leaves_the_last_good_one,
        the_end_of_the_certificate_is_told,
        files_that_are_no_pair_are_faults_of_their_keys,
    ]
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

struct Gateway {
    process: Apiserver,
    dir: TempDir,
    pair: Pair,
}

/// A gateway with a certificate, whose admin paths are in the clear.
fn gateway_and(stub: &Stub, gateway: &str, more: &str) -> Gateway {
    let (dir, pair) = (tempfile::tempdir().unwrap(), Pair::new());
    pair.write(dir.path());
    let process = start(dir.path(), gateway, more);
    process.announce(&[stub.addr()]);
    Gateway { process, dir, pair }
}

fn start(dir: &Path, gateway: &str, more: &str) -> Apiserver {
    Apiserver::start(&format!(
        "{PATIENT}{more}gateway: {{{}, admin_listen: 127.0.0.1:0{gateway}}}\n",
        tls_config(dir)
    ))
}

fn tls_config(dir: &Path) -> String {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    format!("tls: {{cert: {}, key: {}, check_interval: 20ms}}", cert.display(), key.display())
}

fn http11() -> Arc<ClientConfig> {
    client(BOTH, &[b"http/1.1"])
}

/// Asks for `/` over HTTP/2, and says what was negotiated.
fn get_over_http2(gateway: &Apiserver, client: Arc<ClientConfig>) -> (u16, Option<Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(gateway.listen).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(client).connect(name, socket).await.unwrap();
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("https://example.org/").body(Full::<Bytes>::default()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        connection.abort();
        (status, alpn)
    })
}

fn alpn_chooses_http2_or_http11() {
    let stub = Stub::ok("hello");
    let gateway = gateway_and(&stub, "", "");
    let mut stream = handshake(gateway.process.listen, &http11()).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(shown(&stream), gateway.pair.der);
    let reply = exchange_on(&mut stream, &request("GET /", &[("x-forwarded-proto", "http")], b""));
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    let client = client(BOTH, &[b"http/1.1", b"h2"]);
    assert_eq!(get_over_http2(&gateway.process, client), (200, Some(b"h2".to_vec())));
    let requests = stub.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.header("x-forwarded-proto") == ["https"]));
    assert_eq!(requests[1].header("host"), ["example.org"]);
}

fn a_client_without_alpn_is_told_by_its_first_bytes() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    let mut stream = handshake(gateway.process.listen, &client(BOTH, &[])).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), None);
    assert_eq!(exchange_on(&mut stream, &request("GET /", &[], b"")).status, 200);
    assert_eq!(get_over_http2(&gateway.process, client(BOTH, &[])), (200, None));
}

fn tls12_and_tls13_are_spoken_and_sessions_resumed() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    for version in [&TLS12, &TLS13] {
        let client = client(&[version], &[]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = handshake(gateway.process.listen, &client).unwrap();
            assert_eq!(stream.conn.protocol_version(), Some(version.version));
            assert_eq!(exchange_on(&mut stream, &request("GET /", &[], b"")).status, 200);
            assert_eq!(stream.conn.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

fn large_bodies_pass_both_ways_unchanged() {
    let stub = Stub::answering(|exchange| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", exchange.body.len());
        [head.as_bytes(), &exchange.body].concat()
    });
    let gateway = gateway_and(&stub, "", "");
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut stream = handshake(gateway.process.listen, &http11()).unwrap();
    for _ in 0..2 {
        let reply = exchange_on(&mut stream, &request("POST /", &[], &body));
        assert!(reply.complete && reply.body == body);
    }
}

/// The answer fills all buffers between its user and its dataserver before the rest of the upload is sent.
fn an_answer_that_begins_early_holds_up_no_upload_and_no_upload_holds_it_up() {
    const ANSWER: usize = 16_000_000;
    let uploaded = Arc::new(AtomicUsize::new(0));
    let counted = uploaded.clone();
    let stub = Stub::raw(move |stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let answering = std::thread::spawn(move || {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n");
            (&stream).write_all(&[head.as_bytes(), &vec![b'x'; ANSWER]].concat())
        });
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            counted.fetch_add(read, Ordering::SeqCst);
        }
        let _ = answering.join();
    });
    let gateway = gateway_and(&stub, "", "");
    let mut user = handshake(gateway.process.listen, &http11()).unwrap();
    let arrived = |bytes| {
        eventually("the upload", || (uploaded.load(Ordering::SeqCst) == bytes).then_some(()));
    };
    user.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 30000\r\n\r\n").unwrap();
    user.write_all(&[b'y'; 10_000]).unwrap();
    arrived(10_000);
    pause(Duration::from_millis(500));
    user.write_all(&[b'y'; 10_000]).unwrap();
    arrived(20_000);
    let reply = read_reply(&mut BufReader::new(&mut user), false).unwrap();
    assert_eq!((reply.status, reply.body.len(), reply.complete), (200, ANSWER, true));
    user.write_all(&[b'y'; 10_000]).unwrap();
}

fn http_28_a_tunnel_carries_a_large_message_to_a_reader_that_is_late() {
    const MESSAGE: usize = 8_000_000;
    let stub = Stub::raw(|mut stream| {
        let _ = read_head(&mut BufReader::new(&stream));
        let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        let _ = stream.write_all(&[&head[..], &vec![b'x'; MESSAGE]].concat());
        let mut word = [0; 5];
        let _ = stream.read_exact(&mut word).and_then(|()| stream.write_all(&word.to_ascii_uppercase()));
    });
    let gateway = gateway_and(&stub, "", "timeouts: {idle_body: 100ms}\n");
    let mut user = handshake(gateway.process.listen, &http11()).unwrap();
    user.write_all(&request("GET /", &[("connection", "upgrade"), ("upgrade", "x")], b"")).unwrap();
    pause(Duration::from_millis(300));
    let mut user = BufReader::new(user);
    let (first, _) = read_head(&mut user).unwrap();
    assert!(first.starts_with("HTTP/1.1 101 "), "{first}");
    let mut message = vec![0; MESSAGE];
    user.read_exact(&mut message).unwrap();
    user.get_mut().write_all(b"heard").unwrap();
    let mut word = [0; 5];
    user.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HEARD");
}

/// Whether so many handshakes were counted as failed.
#[track_caller]
fn assert_failed(gateway: &Apiserver, count: usize) {
    let line = format!("gateway_connections_refused_total{{reason=\"tls\"}} {count}");
    // A connection ends a moment before that is counted.
    eventually(&line, || gateway.metrics().lines().any(|found| found == line).then_some(()));
}

fn a_failed_handshake_is_counted_and_harms_nobody() {
    let stub = Stub::ok("");
    let gateway = gateway_and(&stub, ", workers: 1", "");
    let mut kept = handshake(gateway.process.listen, &http11()).unwrap();
    let silent = connect(gateway.process.listen);
    let plain = request("GET /", &[], b"");
    for bytes in [&plain[..], b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", &[0xff; 100]] {
        let mut stream = connect(gateway.process.listen);
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    assert!(handshake(gateway.process.listen, &client(BOTH, &[b"gopher"])).is_err());
    assert_failed(&gateway.process, 4);
    assert_eq!(exchange_on(&mut kept, &plain).status, 200);
    assert!(handshake(gateway.process.listen, &http11()).is_ok());
    assert_eq!(stub.requests().len(), 1);
    drop(silent);
}

fn a_handshake_that_does_not_end_is_cut_off() {
    let gateway = gateway_and(&Stub::ok(""), "", "timeouts: {request_head: 500ms}\n");
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = connect(gateway.process.listen);
        stream.write_all(begun).unwrap();
        assert!(ends(&mut stream));
    }
    assert_failed(&gateway.process, 2);
    // After the handshake nothing is said, or not enough to tell what is spoken.
    for begun in [&b""[..], b"PRI * HT"] {
        let mut stream = handshake(gateway.process.listen, &client(BOTH, &[b"h2"])).unwrap();
        stream.write_all(begun).unwrap();
        // Something that was begun is told that it came too late.
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert_eq!(told.starts_with(b"HTTP/1.1 408 "), !begun.is_empty());
        assert!(ends(&mut stream));
    }
    assert_failed(&gateway.process, 2);
}

fn a_reader_that_stops_is_cut_off() {
    let stub = Stub::raw(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        while stream.write_all(&[b'x'; 16384]).is_ok() {}
    });
    let gateway = gateway_and(&stub, "", "timeouts: {idle_body: 500ms}\n");
    let mut stream = handshake(gateway.process.listen, &http11()).unwrap();
    stream.write_all(&request("GET /", &[], b"")).unwrap();
    let in_flight = || gateway.process.metric("gateway_requests_in_flight");
    eventually("it to be under way", || (in_flight() >= 1.0).then_some(()));
    eventually("it to be cut off", || (in_flight() < 1.0).then_some(()));
    drop(stream);
}

fn a_drain_ends_encrypted_connections_and_begun_handshakes() {
    let mut gateway = gateway_and(&Stub::ok(""), "", "timeouts: {request_head: 1h, drain: 10s}\n");
    let mut idle = handshake(gateway.process.listen, &http11()).unwrap();
    assert_eq!(exchange_on(&mut idle, &request("GET /", &[], b"")).status, 200);
    let mut begun = connect(gateway.process.listen);
    begun.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
    gateway.process.process.signal("TERM");
    // An end that the gateway announces (close_notify) and not one that anybody could have made.
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    assert!(ends(&mut begun));
    assert_eq!(gateway.process.process.wait().code(), Some(0));
    assert!(!gateway.process.process.output().contains("cut off"));
}

/// Whoever has begun to agree on keys is about to ask something.
fn http_50_a_handshake_that_was_begun_before_the_drain_leads_to_an_answer() {
    let stub = Stub::ok("answered");
    for version in [&TLS12, &TLS13] {
        let mut gateway = gateway_and(&stub, "", "timeouts: {request_head: 1h, drain: 30s}\n");
        let mut socket = connect(gateway.process.listen);
        let mut session = session(&client(&[version], &[b"http/1.1"]));
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        let (begun, rest) = hello.split_at(hello.len() / 2);
        socket.write_all(begun).unwrap();
        // It is read: what the kernel alone has would be no handshake yet.
        assert_eq!(exchange_on(&mut handshake(gateway.process.listen, &http11()).unwrap(), GET).status, 200);
        gateway.process.process.signal("TERM");
        gateway.process.process.wait_for("drain", |line| line.contains("draining").then_some(()));
        pause(std::time::Duration::from_millis(200));
        socket.write_all(rest).unwrap();
        let mut stream = go_on(session, socket).unwrap();
        pause(std::time::Duration::from_millis(200));
        let reply = exchange_on(&mut stream, GET);
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("answered", Some("close")));
        assert_eq!(gateway.process.process.wait().code(), Some(0));
        assert!(!gateway.process.process.output().contains("cut off"));
    }
}

fn proxy_protocol_comes_before_the_handshake() {
    let stub = Stub::ok("");
    let gateway = gateway_and(&stub, ", proxy_protocol: true", "");
    let mut socket = connect(gateway.process.listen);
    socket.write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 443\r\n").unwrap();
    let mut stream = handshake_on(socket, &http11()).unwrap();
    assert_eq!(exchange_on(&mut stream, &request("GET /", &[], b"")).status, 200);
    assert_eq!(stub.requests()[0].header("x-forwarded-for"), ["203.0.113.7"]);
    assert_eq!(stub.requests()[0].header("x-forwarded-proto"), ["https"]);
    assert!(handshake(gateway.process.listen, &http11()).is_err(), "a handshake without a header before it");
    assert_failed(&gateway.process, 0);
}

/// Waits until new connections get this certificate, and the old one still works on those that are open.
#[track_caller]
fn is_used(gateway: &Gateway, pair: &Pair, change: impl FnOnce()) {
    let mut open = handshake(gateway.process.listen, &http11()).unwrap();
    change();
    eventually("the new certificate", || {
        (shown(&handshake(gateway.process.listen, &http11()).unwrap()) == pair.der).then_some(())
    });
    assert_eq!(exchange_on(&mut open, &request("GET /", &[], b"")).status, 200);
    eventually("it to be counted", || {
        (gateway.process.metric("gateway_tls_reloads_total{result=\"used\"}") >= 1.0).then_some(())
    });
}

fn a_certificate_written_in_place_is_used() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    let new = Pair::new();
    is_used(&gateway, &new, || new.write(gateway.dir.path()));
}

fn a_certificate_renamed_into_place_is_used() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    let (new, dir) = (Pair::new(), gateway.dir.path());
    std::fs::create_dir(dir.join("new")).unwrap();
    new.write(&dir.join("new"));
    is_used(&gateway, &new, || {
        for file in ["cert.pem", "key.pem"] {
            std::fs::rename(dir.join("new").join(file), dir.join(file)).unwrap();
        }
    });
}

/// As Kubernetes does it: the files are links into a folder that is itself a link, and only that is swapped.
fn a_certificate_behind_a_swapped_link_is_used() {
    use std::os::unix::fs::symlink;
    let (dir, stub) = (tempfile::tempdir().unwrap(), Stub::ok(""));
    let (old, new) = (Pair::new(), Pair::new());
    for (name, pair) in [("1", &old), ("2", &new)] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        pair.write(&dir.path().join(name));
    }
    symlink("1", dir.path().join("data")).unwrap();
    for file in ["cert.pem", "key.pem"] {
        symlink(format!("data/{file}"), dir.path().join(file)).unwrap();
    }
    let process = start(dir.path(), "", "");
    process.announce(&[stub.addr()]);
    let gateway = Gateway { process, dir, pair: old };
    assert_eq!(shown(&handshake(gateway.process.listen, &http11()).unwrap()), gateway.pair.der);
    is_used(&gateway, &new, || {
        symlink("2", gateway.dir.path().join("next")).unwrap();
        std::fs::rename(gateway.dir.path().join("next"), gateway.dir.path().join("data")).unwrap();
    });
    assert!(!gateway.process.process.output().contains("cannot be used"), "both change at once");
}

fn a_broken_pair_leaves_the_last_good_one() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    let (new, dir) = (Pair::new(), gateway.dir.path());
    let refused = |count: usize| {
        let line = format!("gateway_tls_reloads_total{{result=\"refused\"}} {count}");
        eventually(&line, || gateway.process.metrics().lines().any(|found| found == line).then_some(()));
        // Some more looks at the same files say nothing new.
        pause(std::time::Duration::from_millis(100));
        assert!(gateway.process.metrics().lines().any(|found| found == line), "{count} and no more");
        assert_eq!(gateway.process.process.count("the last good one stays"), count);
        assert_eq!(shown(&handshake(gateway.process.listen, &http11()).unwrap()), gateway.pair.der);
    };
    // Renamed: what is written in place can be seen half written, and would count once more.
    let put = |file: &str, text: &str| {
        std::fs::write(dir.join("new"), text).unwrap();
        std::fs::rename(dir.join("new"), dir.join(file)).unwrap();
    };
    put("cert.pem", &new.cert);
    refused(1);
    assert_eq!(gateway.process.process.count("does not match the certificate"), 1);
    std::fs::remove_file(dir.join("key.pem")).unwrap();
    refused(2);
    put("key.pem", "junk");
    refused(3);
    is_used(&gateway, &new, || put("key.pem", &new.key));
}

fn the_end_of_the_certificate_is_told() {
    let gateway = gateway_and(&Stub::ok(""), "", "");
    for (year, end) in [(2030, 1_893_542_400.0), (2031, 1_925_078_400.0)] {
        Pair::ending(year).write(gateway.dir.path());
        eventually("its end", || {
            let told = gateway.process.metric("gateway_tls_certificate_expires_timestamp_seconds");
            ((told - end).abs() < 0.5).then_some(())
        });
    }
}

fn files_that_are_no_pair_are_faults_of_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let (pair, other) = (Pair::new(), Pair::new());
    let not_base64 = "-----BEGIN PRIVATE KEY-----\n*secret*\n-----END PRIVATE KEY-----\n";
    let not_x509 = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let encrypted = pair.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let config = dir.path().join("config.yaml");
    std::fs::write(&config, format!("gateway: {{listen: 127.0.0.1:0, {}}}\n", tls_config(dir.path())))
        .unwrap();
    let faults = |cert: &str, key: &str, command: &[&str]| {
        std::fs::write(dir.path().join("cert.pem"), cert).unwrap();
        std::fs::write(dir.path().join("key.pem"), key).unwrap();
        let output = Apiserver::command(&config).args(command).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!text.contains("secret"), "{text}");
        (output.status.code(), text)
    };
    let cases = [
        ("", &pair.key[..], "cert", "holds no certificate"),
        (&pair.key, &pair.key, "cert", "holds no certificate"),
        (not_x509, &pair.key, "cert", "is not a certificate"),
        (&"x".repeat(2 << 20), &pair.key, "cert", "is larger than"),
        (&pair.cert, &pair.cert, "key", "holds no private key"),
        (&pair.cert, &encrypted, "key", "holds no private key"),
        (&pair.cert, not_base64, "key", "is not PEM"),
        (&pair.cert, &other.key, "key", "does not match the certificate"),
    ];
    for (cert, key, file, fault) in cases {
        let path = dir.path().join(format!("{file}.pem"));
        let expected = format!("{}:1: gateway.tls.{file}: \"{}\" {fault}", config.display(), path.display());
        for command in [&["check"][..], &[]] {
            let (code, text) = faults(cert, key, command);
            assert!(code == Some(78) && text.starts_with(&expected), "{expected}, not {code:?} {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
    assert_eq!(faults(&pair.cert, &pair.key, &["check"]).0, Some(0));
    let (_, both) = faults("", "", &["check"]);
    assert!(both.contains("gateway.tls.cert") && both.contains("gateway.tls.key"), "{both}");
    std::fs::remove_file(dir.path().join("cert.pem")).unwrap();
    std::fs::create_dir(dir.path().join("cert.pem")).unwrap();
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    let output = Apiserver::command(&config).arg("check").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("is not a file") && text.contains("cannot be read"), "{text}");
    assert_eq!(output.status.code(), Some(78));
}
