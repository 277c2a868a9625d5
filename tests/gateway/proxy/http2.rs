//! HTTP/2 from users, with prior knowledge.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use libtest_mimic::Trial;

use super::gateway_and;
use crate::support::frames::{Ended, Field, Frames, GET, PREFACE, kind};
use crate::support::{Apiserver, PATIENT, Stub, connect, eventually, pause, read_reply, request, trials};

pub fn trials() -> Vec<Trial> {
    trials![
        http_25_http2_requests_become_http11_and_their_answers_come_back,
        http_38_what_is_spoken_is_told_by_the_first_bytes_however_they_come,
        http_38_the_authority_is_the_host,
        http_38_without_an_authority_the_host_is_it,
        http_03_a_path_begins_with_a_slash_or_is_the_asterisk_of_options,
        http_04_connect_and_trace_are_405_here_too,
        http_39_cookies_are_joined,
        http_08_limits_headers_counts_here_too,
        http_08_a_cookie_in_pieces_counts_once,
        http_40_what_is_for_http11_or_malformed_is_a_stream_error,
        http_40_a_body_of_another_length_is_never_whole,
        many_streams_share_a_connection,
        admin_paths_are_there_too,
        http_50_a_connection_ends_well_when_the_gateway_drains,
    ]
}

pub(super) type Sender = http2::SendRequest<Full<Bytes>>;

/// Runs a client with an HTTP/2 connection to the gateway.
pub(super) fn with_client<T>(to: SocketAddr, client: impl AsyncFnOnce(Sender) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let result = client(sender).await;
        connection.abort();
        result
    })
}

async fn send(sender: &mut Sender, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://example.org{path}")).body(Full::default()).unwrap()
}

fn http_25_http2_requests_become_http11_and_their_answers_come_back() {
    let stub = Stub::answering(|exchange| {
        let mut answer = format!(
            "HTTP/1.1 201 Created\r\nconnection: x-y\r\nx-y: 1\r\nx-z: 2\r\ncontent-length: {}\r\n\r\n",
            exchange.body.len()
        )
        .into_bytes();
        answer.extend_from_slice(&exchange.body);
        answer
    });
    let gateway = gateway_and("", &[&stub]);
    with_client(gateway.listen, async |mut sender| {
        let request = Request::post("http://example.org/x?y=1").body(Full::from("there and back")).unwrap();
        let response = send(&mut sender, request).await;
        assert_eq!((response.status().as_u16(), &response.body()[..]), (201, &b"there and back"[..]));
        assert!(response.headers().contains_key("x-z") && !response.headers().contains_key("x-y"));
        let response = send(&mut sender, get("/")).await;
        assert_eq!(response.status(), 201);
    });
    let requests = stub.requests();
    assert_eq!((requests[0].first.as_str(), requests[0].complete), ("POST /x?y=1 HTTP/1.1", true));
    assert!(requests[0].header("via")[0].starts_with("2 nsq-gateway-"));
    // A GET without a body gets no framing.
    assert!(
        requests[1].header("transfer-encoding").is_empty() && requests[1].header("content-length").is_empty()
    );
    assert!(gateway.metric("gateway_requests_total{method=\"POST\",code=\"201\"}") > 0.0);
}

/// What begins as HTTP/2 does and goes on as nothing is refused when that is seen, and not when its time is over.
fn http_38_what_is_spoken_is_told_by_the_first_bytes_however_they_come() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let in_pieces = |stream: &mut TcpStream, pieces: &[&[u8]]| {
        for piece in pieces {
            stream.write_all(piece).unwrap();
            pause(Duration::from_millis(5)); // most are read one by one
        }
    };
    for piece in [1, 3, 18, 23] {
        let mut stream = connect(gateway.listen);
        in_pieces(&mut stream, &PREFACE.chunks(piece).collect::<Vec<_>>());
        let mut frames = Frames::after_preface(stream, b"");
        frames.request(1, &GET, false);
        assert_eq!(frames.end_of(1), Ended::Answered(Some(200)), "in pieces of {piece}");
        let mut stream = connect(gateway.listen);
        in_pieces(&mut stream, &request("GET /", &[], b"").chunks(piece).collect::<Vec<_>>());
        assert_eq!(
            read_reply(&mut BufReader::new(stream), false).unwrap().status,
            200,
            "in pieces of {piece}"
        );
    }
    for pieces in [&[&PREFACE[..18], b"GO"][..], &[b"P", b"RI * HTTP/2.0\r\n\r\nSM\r\n", b"\r\r"]] {
        let mut stream = connect(gateway.listen);
        in_pieces(&mut stream, pieces);
        let reply = read_reply(&mut BufReader::new(stream), false).expect("it is waited for");
        assert!([400, 505].contains(&reply.status), "{reply:?}");
    }
}

fn http_38_the_authority_is_the_host() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    with_client(gateway.listen, async |mut sender| {
        send(&mut sender, get("/")).await;
        let mut request = get("/");
        request.headers_mut().insert("host", "other".parse().unwrap());
        send(&mut sender, request).await;
    });
    for request in stub.requests() {
        assert_eq!(request.header("host"), ["example.org"]);
        assert_eq!(request.header("x-forwarded-host"), ["example.org"]);
    }
}

/// What a gateway says to a request of these fields, if it answers.
fn status_of(gateway: &Apiserver, fields: &[Field<'_>]) -> Option<u16> {
    let mut frames = Frames::connect(gateway.listen, b"");
    frames.request(1, fields, false);
    match frames.end_of(1) {
        Ended::Answered(status) => status,
        _ => None,
    }
}

fn http_03_a_path_begins_with_a_slash_or_is_the_asterisk_of_options() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let of = |method, path| status_of(&gateway, &[(b":method", method), GET[1], GET[2], (b":path", path)]);
    assert_eq!(of(b"GET", b"*"), Some(400));
    for path in [&b"?x"[..], b"x", b"http://b/"] {
        assert!(matches!(of(b"GET", path), Some(400) | None), "{}", path.escape_ascii());
    }
    assert!(stub.requests().is_empty(), "{:?}", stub.requests());
    assert_eq!((of(b"OPTIONS", b"*"), of(b"GET", b"//b/?")), (Some(200), Some(200)));
    let reached: Vec<_> = stub.requests().into_iter().map(|request| request.first).collect();
    assert_eq!(reached, ["OPTIONS * HTTP/1.1", "GET //b/? HTTP/1.1"]);
}

fn http_04_connect_and_trace_are_405_here_too() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    assert_eq!(status_of(&gateway, &[(b":method", b"CONNECT"), (b":authority", b"a:1")]), Some(405));
    assert_eq!(status_of(&gateway, &[(b":method", b"TRACE"), GET[1], GET[2], GET[3]]), Some(405));
    // RFC 8441, which nobody offered.
    let websocket: Field<'_> = (b":protocol", b"websocket");
    let fields = [(&b":method"[..], &b"CONNECT"[..]), websocket, GET[1], GET[2], GET[3]];
    assert!(matches!(status_of(&gateway, &fields), Some(400..=499) | None));
    assert!(stub.requests().is_empty(), "{:?}", stub.requests());
}

fn http_39_cookies_are_joined() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    with_client(gateway.listen, async |mut sender| {
        let mut request = get("/");
        for cookie in ["a=1", "b=2", "c=3"] {
            request.headers_mut().append("cookie", cookie.parse().unwrap());
        }
        send(&mut sender, request).await;
    });
    assert_eq!(stub.requests()[0].header("cookie"), ["a=1; b=2; c=3"]);
}

fn http_08_limits_headers_counts_here_too() {
    let stub = Stub::ok("");
    let gateway = Apiserver::start(&format!("{PATIENT}limits: {{headers: 10}}\n"));
    gateway.announce(&[stub.addr()]);
    with_client(gateway.listen, async |mut sender| {
        let mut request = get("/");
        for n in 0..20 {
            request.headers_mut().append("x", n.into());
        }
        assert_eq!(send(&mut sender, request).await.status(), 431);
        assert_eq!(send(&mut sender, get("/")).await.status(), 200);
    });
}

/// As it would in HTTP/1 (RFC 9113 §8.2.3).
fn http_08_a_cookie_in_pieces_counts_once() {
    let stub = Stub::ok("");
    let gateway = gateway_and("limits: {headers: 10}\n", &[&stub]);
    let pieces: Vec<_> = (0..20).map(|n| format!("c{n}={n}")).collect();
    let mut fields = GET.to_vec();
    fields.extend(pieces.iter().map(|piece| (&b"cookie"[..], piece.as_bytes())));
    assert_eq!(status_of(&gateway, &fields), Some(200));
    assert_eq!(stub.requests()[0].header("cookie"), [pieces.join("; ")]);
    fields.extend([(&b"x"[..], &b"y"[..]); 10]);
    assert_eq!(status_of(&gateway, &fields), Some(431));
    assert_eq!(stub.requests().len(), 1);
}

fn many_streams_share_a_connection() {
    let stub = Stub::ok("many");
    let gateway = gateway_and("", &[&stub]);
    with_client(gateway.listen, async |sender| {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let mut sender = sender.clone();
            running.spawn(async move { send(&mut sender, get("/")).await });
        }
        while let Some(response) = running.join_next().await {
            assert_eq!(&response.unwrap().body()[..], b"many");
        }
    });
    assert_eq!(stub.requests().len(), 100);
}

fn admin_paths_are_there_too() {
    let gateway = Apiserver::start("");
    let response = with_client(gateway.listen, async |mut sender| send(&mut sender, get("/healthz")).await);
    assert_eq!(response.status(), 200);
}

fn http_50_a_connection_ends_well_when_the_gateway_drains() {
    let stub = Stub::answering(|_| {
        crate::support::pause(std::time::Duration::from_millis(700));
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow".to_vec()
    });
    let mut gateway = gateway_and("", &[&stub]);
    let process = &gateway.process;
    with_client(gateway.listen, async |mut sender| {
        let answer = tokio::spawn({
            let mut sender = sender.clone();
            async move { send(&mut sender, get("/")).await }
        });
        tokio::task::spawn_blocking({
            let addr = gateway.listen;
            move || {
                eventually("it to be under way", || {
                    let metrics = crate::support::get(addr, "/metrics").text();
                    metrics.contains("gateway_requests_in_flight 1").then_some(())
                });
            }
        })
        .await
        .unwrap();
        process.signal("TERM");
        assert_eq!(answer.await.unwrap().body(), "slow");
        // GOAWAY: no more on this connection.
        assert!(sender.send_request(get("/")).await.is_err());
    });
    assert_eq!(gateway.process.wait().code(), Some(0));
}

fn http_38_without_an_authority_the_host_is_it() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let mut frames = Frames::connect(gateway.listen, b"");
    let fields: [Field<'_>; 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b"host", b"other")];
    frames.request(1, &fields, false);
    assert_eq!(frames.end_of(1), Ended::Answered(Some(200)));
    assert_eq!(stub.requests()[0].header("host"), ["other"]);
}

/// RFC 9113 §8.1.1, §8.2: nothing of it may reach a dataserver, where a line end in a value would be one.
fn http_40_what_is_for_http11_or_malformed_is_a_stream_error() {
    let stub = Stub::ok("");
    let gateway = gateway_and("", &[&stub]);
    let added: [&[Field<'_>]; 21] = [
        &[(b"connection", b"keep-alive")],
        &[(b"connection", b"close")],
        &[(b"keep-alive", b"5")],
        &[(b"proxy-connection", b"close")],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"upgrade", b"websocket")],
        &[(b"te", b"gzip")],
        &[(b"X-Upper", b"1")],
        &[(b"x", b"a\r\nx-injected: 1")],
        &[(b"x", b"a\nb")],
        &[(b"x", b"a\0b")],
        &[(b"x\r\ny", b"a")],
        &[(b"x: y", b"a")],
        &[(b"x y", b"a")],
        &[(b"", b"a")],
        &[(b":path", b"/twice")],
        &[(b":method", b"POST")],
        &[(b":odd", b"1")],
        &[(b":status", b"200")],
        &[(b"content-length", b"5x")],
        &[(b"content-length", b"-1")],
    ];
    for fields in added {
        let mut frames = Frames::connect(gateway.listen, b"");
        frames.request(1, &[&GET[..], fields].concat(), false);
        assert_stream_error(
            &mut frames,
            &format!("{:?}", fields.iter().map(|f| f.0.escape_ascii().to_string()).collect::<Vec<_>>()),
        );
    }
    let heads: [&[Field<'_>]; 6] = [
        &[GET[0], GET[1], GET[2]],
        &[GET[1], GET[2], GET[3]],
        &[GET[0], GET[2], GET[3]],
        &[GET[0], GET[1], GET[2], (b":path", b"")],
        &[GET[0], GET[1], GET[2], (b":path", b"/ HTTP/1.1\r\nx: y")],
        &[GET[0], GET[1], (b"x", b"before"), GET[2], GET[3]],
    ];
    for (n, fields) in heads.iter().enumerate() {
        let mut frames = Frames::connect(gateway.listen, b"");
        frames.request(1, fields, false);
        assert_stream_error(&mut frames, &format!("head {n}"));
    }
    assert!(stub.requests().is_empty(), "{:?}", stub.requests());
}

#[track_caller]
fn assert_stream_error(frames: &mut Frames, what: &str) {
    let ended = frames.end_of(1);
    // RFC 9113 §8.1.1 lets a server answer before it ends the stream, and take the whole connection for broken.
    assert!(
        matches!(ended, Ended::Reset(1) | Ended::GoneAway(_) | Ended::Answered(Some(400))),
        "{what}: {ended:?}"
    );
}

fn http_40_a_body_of_another_length_is_never_whole() {
    for (length, body) in
        [(&b"5"[..], &b"123"[..]), (b"3", b"12345"), (b"0", b"GET /smuggled HTTP/1.1\r\n\r\n"), (b"5", b"")]
    {
        let stub = Stub::ok("");
        let gateway = gateway_and("", &[&stub]);
        let mut frames = Frames::connect(gateway.listen, b"");
        let post: [Field<'_>; 5] =
            [(b":method", b"POST"), GET[1], GET[2], GET[3], (b"content-length", length)];
        frames.request(1, &post, true);
        frames.send(kind::DATA, 1, 1, body);
        let ended = frames.end_of(1);
        assert!(!matches!(ended, Ended::Answered(Some(200))), "{}: {ended:?}", body.escape_ascii());
        eventually("the end", || (gateway.metric("gateway_requests_in_flight") < 1.0).then_some(()));
        assert!(stub.requests().iter().all(|request| !request.complete), "{:?}", stub.requests());
    }
}
