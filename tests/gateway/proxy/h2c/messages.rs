//! What becomes of messages between HTTP/1 and HTTP/2, and of their trailers.

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use libtest_mimic::Trial;

use super::gateway_and;
use crate::support::h2_stub::Connections;
use crate::support::{
    Apiserver, H2Stub, PATIENT, Stub, connect, eventually, exchange, get, read_reply, request, trials,
};

pub fn trials() -> Vec<Trial> {
    trials![
        rfc9113_8_a_request_becomes_one_of_http2,
        http_30_answers_to_head_and_204_end_with_their_head,
        a_request_without_a_host_has_no_authority,
        rfc9110_10_1_4_te_goes_on_only_if_the_user_sent_it,
        http_15_trailers_go_both_ways_between_http2,
        http_15_trailers_of_an_http11_upload_go_on,
        http_15_trailers_reach_http11_only_if_asked_for,
        http_15_trailers_of_http11_reach_http2,
        http_26_expect_100_continue,
        http_35_a_reset_after_the_head_is_never_an_end,
        http_35_an_answer_that_said_to_be_empty_and_is_not_is_no_answer,
        an_upload_of_known_length_arrives,
    ]
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// Runs an HTTP/2 client of the gateway.
pub(super) fn with_h2<T>(to: SocketAddr, client: impl AsyncFnOnce(h2::client::SendRequest<Bytes>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let client = client(sender.ready().await.unwrap());
        tokio::time::timeout(Duration::from_secs(30), client).await.expect("the client hangs")
    })
}

pub(super) fn h2_request(method: &str) -> Request<()> {
    Request::builder().method(method).uri("http://example.org/x").version(Version::HTTP_2).body(()).unwrap()
}

fn rfc9113_8_a_request_becomes_one_of_http2() {
    let stub = H2Stub::ok("two");
    let gateway = gateway_and(&stub);
    let connection = ("connection", "x-y, keep-alive");
    let more =
        [connection, ("x-y", "1"), ("keep-alive", "5"), ("x-z", "2"), ("te", "gzip"), ("cookie", "a=1")];
    let reply = exchange(gateway.listen, &request("GET /a/b?c=d", &more, b""));
    assert_eq!((reply.status, reply.text().as_str()), (200, "two"));
    assert!(reply.header("via").unwrap().starts_with("2 nsq-gateway-"));
    assert!(reply.header("transfer-encoding") == Some("chunked") && reply.complete);
    let head = &stub.requests()[0].head;
    assert_eq!(head.uri, "http://test/a/b?c=d");
    for gone in ["host", "connection", "x-y", "keep-alive", "te", "transfer-encoding"] {
        assert!(!head.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(
        (&head.headers["x-z"], &head.headers["cookie"]),
        (&"2".parse().unwrap(), &"a=1".parse().unwrap())
    );
    assert!(head.headers["via"].to_str().unwrap().starts_with("1.1 nsq-gateway-"));
    let entry = &get(gateway.listen, "/dataservers").json()["dataservers"][0];
    assert_eq!(
        (&entry["protocol"], &entry["requests"], &entry["in_flight"]),
        (&"h2c".into(), &1.into(), &0.into())
    );

    // HEAD, and an answer without a body.
    let reply = exchange(gateway.listen, &request("HEAD /", &[], b""));
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let reply = exchange(gateway.listen, &request("OPTIONS *", &[], b""));
    assert_eq!(reply.status, 200);
    assert_eq!(stub.requests()[2].head.uri.path(), "*");
}

/// Also if the dataserver sends a body, as some programs do.
fn http_30_answers_to_head_and_204_end_with_their_head() {
    let stub = H2Stub::answering(Connections::default(), |asked, mut respond| async move {
        let head = match asked.head.method {
            Method::HEAD => Response::builder().header("content-length", 3),
            _ => Response::builder().status(204),
        };
        let head = head.body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        let _ = body.send_data(Bytes::from_static(b"two"), true); // or it was reset
    });
    let gateway = gateway_and(&stub);
    let reply = exchange(gateway.listen, &request("HEAD /", &[], b""));
    assert_eq!((reply.status, reply.header("content-length"), reply.body.len()), (200, Some("3"), 0));
    assert_eq!(exchange(gateway.listen, &request("GET /", &[], b"")).status, 204);
    with_h2(gateway.listen, async |mut sender| {
        for (method, status, length) in [("HEAD", 200, Some(3)), ("GET", 204, None)] {
            let (answer, _) = sender.send_request(h2_request(method), true).unwrap();
            let mut answer = answer.await.unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!(answer.headers().get("content-length"), length.map(HeaderValue::from).as_ref());
            assert!(answer.body_mut().data().await.is_none(), "neither a body nor a reset");
        }
    });
    assert_eq!(stub.requests().len(), 4);
    assert!(!gateway.metrics().contains("gateway_upstream_errors_total{"), "nobody has failed");
}

fn a_request_without_a_host_has_no_authority() {
    let stub = H2Stub::ok("");
    let gateway = gateway_and(&stub);
    assert_eq!(exchange(gateway.listen, b"GET /old HTTP/1.0\r\n\r\n").status, 200);
    let head = &stub.requests()[0].head;
    assert_eq!((head.uri.authority(), head.uri.path()), (None, "/old"));
    // What is_host lets through and is no authority all the same.
    assert_eq!(exchange(gateway.listen, b"GET / HTTP/1.1\r\nhost: [[\r\n\r\n").status, 400);
}

fn an_upload_of_known_length_arrives() {
    let stub = H2Stub::ok("");
    let gateway = gateway_and(&stub);
    let body = vec![b'x'; 1_000_000];
    assert_eq!(exchange(gateway.listen, &request("POST /", &[], &body)).status, 200);
    let seen = &stub.requests()[0];
    assert_eq!((seen.body.len(), &seen.head.headers["content-length"]), (body.len(), &1_000_000.into()));
}

fn rfc9110_10_1_4_te_goes_on_only_if_the_user_sent_it() {
    let (one, two) = (Stub::ok(""), H2Stub::ok(""));
    let gateway = Apiserver::start(PATIENT);
    gateway.announce(&[one.addr()]);
    let asks = request("GET /", &[("te", "gzip;q=0.5, Trailers"), ("connection", "TE, close")], b"");
    let does_not = request("GET /", &[("te", "gzip"), ("connection", "TE, close")], b"");
    exchange(gateway.listen, &asks);
    exchange(gateway.listen, &does_not);
    exchange(gateway.listen, b"GET / HTTP/1.0\r\nhost: a\r\nte: trailers\r\n\r\n");
    let [asked, did_not, old] = &one.requests()[..] else { panic!("three requests") };
    assert_eq!((asked.header("te"), asked.header("connection")), (vec!["trailers"], vec!["te"]));
    assert!(did_not.header("te").is_empty() && did_not.header("connection").is_empty());
    assert!(old.header("te").is_empty());

    let gateway = gateway_and(&two);
    exchange(gateway.listen, &asks);
    let head = &two.requests()[0].head;
    assert!(head.headers["te"] == "trailers" && !head.headers.contains_key("connection"));
}

/// Answers with a body and these trailers.
fn with_trailers(
    mut respond: SendResponse<Bytes>,
    head: &[(&'static str, &'static str)],
    trailers: HeaderMap,
) {
    let mut response = Response::new(());
    *response.headers_mut() = fields(head);
    let mut stream = respond.send_response(response, false).unwrap();
    stream.send_data(Bytes::from_static(b"body"), false).unwrap();
    stream.send_trailers(trailers).unwrap();
}

fn http_15_trailers_go_both_ways_between_http2() {
    let stub = H2Stub::answering(Connections::default(), |_, respond| async move {
        with_trailers(
            respond,
            &[],
            fields(&[("x-after", "answer"), ("content-encoding", "gzip"), ("trailer", "x")]),
        );
    });
    let gateway = gateway_and(&stub);
    with_h2(gateway.listen, async |mut sender| {
        let (answer, mut upload) = sender.send_request(h2_request("POST"), false).unwrap();
        upload.send_data(Bytes::from_static(b"upload"), false).unwrap();
        upload.send_trailers(fields(&[("x-sum", "7"), ("content-encoding", "gzip")])).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "body");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap(), Some(fields(&[("x-after", "answer")])));
    });
    let seen = &stub.requests()[0];
    assert_eq!((&seen.body[..], &seen.trailers), (&b"upload"[..], &Some(fields(&[("x-sum", "7")]))));
    assert!(!seen.head.headers.contains_key("x-sum"));
}

fn http_15_trailers_of_an_http11_upload_go_on() {
    let stub = H2Stub::ok("");
    let gateway = gateway_and(&stub);
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                   6\r\nupload\r\n0\r\nx-sum: 7\r\ncontent-length: 1\r\n\r\n";
    assert_eq!(exchange(gateway.listen, chunked.as_bytes()).status, 200);
    let seen = &stub.requests()[0];
    assert_eq!((&seen.body[..], &seen.trailers), (&b"upload"[..], &Some(fields(&[("x-sum", "7")]))));
}

/// Everything that comes back.
fn all(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn http_15_trailers_reach_http11_only_if_asked_for() {
    let grpc = H2Stub::answering(Connections::default(), |_, respond| async move {
        with_trailers(
            respond,
            &[("content-type", "application/grpc+proto")],
            fields(&[("grpc-status", "0")]),
        );
    });
    let http1 = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntrailer: grpc-status\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\ngrpc-status: 0\r\n\r\n"
            .to_vec()
    });
    let gateways = [gateway_and(&grpc), Apiserver::start(PATIENT)];
    gateways[1].announce(&[http1.addr()]);
    for gateway in gateways {
        let asked = request("POST /", &[("te", "trailers"), ("connection", "te, close")], b"");
        let answer = all(gateway.listen, &asked);
        assert!(answer.ends_with("4\r\nbody\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{answer}");
        let answer = all(gateway.listen, &request("POST /", &[("connection", "close")], b""));
        assert!(answer.ends_with("4\r\nbody\r\n0\r\n\r\n"), "{answer}");
        let answer =
            all(gateway.listen, b"POST / HTTP/1.0\r\nhost: a\r\nte: trailers\r\ncontent-length: 0\r\n\r\n");
        assert!(answer.ends_with("\r\n\r\nbody"), "{answer}");
    }
}

fn http_15_trailers_of_http11_reach_http2() {
    let stub = Stub::answering(|_| {
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-after: 1\r\n\r\n".to_vec()
    });
    let gateway = Apiserver::start(PATIENT);
    gateway.announce(&[stub.addr()]);
    with_h2(gateway.listen, async |mut sender| {
        let (answer, _) = sender.send_request(h2_request("GET"), true).unwrap();
        let mut body = answer.await.unwrap().into_body();
        while let Some(part) = body.data().await {
            part.unwrap();
        }
        assert_eq!(body.trailers().await.unwrap(), Some(fields(&[("x-after", "1")])));
    });
}

fn http_26_expect_100_continue() {
    let stub = H2Stub::ok("done");
    let gateway = gateway_and(&stub);
    let mut stream = connect(gateway.listen);
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(read_reply(&mut reader, false).unwrap().status, 100);
    stream.write_all(b"body").unwrap();
    assert_eq!(read_reply(&mut reader, false).unwrap().text(), "done");
    assert_eq!(stub.requests()[0].body, b"body");
}

fn http_35_a_reset_after_the_head_is_never_an_end() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let stub = H2Stub::answering(Connections::default(), move |_, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"half"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await; // the half is on its way
            stream.send_reset(reason);
        });
        let gateway = gateway_and(&stub);
        let reply = exchange(gateway.listen, &request("GET /", &[], b""));
        assert_eq!((reply.status, reply.text().as_str(), reply.complete), (200, "half", false), "{reason:?}");
        with_h2(gateway.listen, async |mut sender| {
            let (answer, _) = sender.send_request(h2_request("GET"), true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "half");
            assert!(body.data().await.unwrap().is_err(), "{reason:?}");
        });
        let failures =
            format!("gateway_upstream_errors_total{{dataserver=\"{}\",kind=\"body\"}}", stub.addr());
        eventually("two failures", || (gateway.metric(&failures) > 1.0).then_some(()));
    }
}

fn http_35_an_answer_that_said_to_be_empty_and_is_not_is_no_answer() {
    let stub = H2Stub::answering(Connections::default(), |asked, mut respond| async move {
        let head = Response::builder().header("content-length", 0).body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await; // the head is on its way
        let _ = match asked.head.uri.path() {
            "/data" => body.send_data(Bytes::from_static(b"late"), true),
            "/trailers" => body.send_trailers(fields(&[("x-after", "1")])),
            _ => body.send_data(Bytes::new(), true),
        };
    });
    let gateway = gateway_and(&stub);
    let reply = get(gateway.listen, "/data");
    assert_eq!(reply.status, 502);
    assert!(reply.header("proxy-status").unwrap().contains("http_protocol_error"), "{reply:?}");
    for path in ["/nothing", "/trailers"] {
        let reply = get(gateway.listen, path);
        assert_eq!((reply.status, reply.header("content-length"), reply.complete), (200, Some("0"), true));
        with_h2(gateway.listen, async |mut sender| {
            let mut request = h2_request("GET");
            *request.uri_mut() = format!("http://example.org{path}").parse().unwrap();
            let (answer, _) = sender.send_request(request, true).unwrap();
            let mut body = answer.await.unwrap().into_body();
            assert!(body.data().await.is_none());
            let trailers = (path == "/trailers").then(|| fields(&[("x-after", "1")]));
            assert_eq!(body.trailers().await.unwrap(), trailers);
        });
    }
}
