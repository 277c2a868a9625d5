//! The load that the gateway is optimized for: what a gateway is trained with.
//!
//! `deploy/build` puts it on a gateway that counts which way its code goes, and builds the one that is shipped by these
//! counts. What is not in it is taken for rare and made small instead of fast, so that every kind of traffic has a part in it. What has
//! much of it is built into one piece, for which each function can have one place only: so most are small requests on kept
//! connections in the clear. Every answer is checked.
//!
//! `cargo test --bench training` puts a fraction of it on the gateway of that build, `cargo test --bench training -- APISERVER COUNTS`
//! all of it on that gateway, whose counts go to that folder.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::client::conn;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::ServerName};

mod gateway;

use gateway::Gateway;

const SMALL: usize = 52;
const PART: usize = 4 * 1024;
const LARGE: usize = 100 * 1024;

/// Many times what all of the load takes.
const LIMIT: Duration = Duration::from_secs(600);

type Body = BoxBody<Bytes, Infallible>;

fn main() {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let trainee = match (args.next(), args.next()) {
        (Some(path), Some(counts)) => Program { path, counts: Some(counts), part: 1 },
        _ => Program { path: env!("CARGO_BIN_EXE_apiserver").into(), counts: None, part: 50 },
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { timeout(LIMIT, train(&trainee)).await.expect("a request hangs") });
}

/// What is trained.
struct Program {
    path: PathBuf,
    /// Where its counts go.
    counts: Option<PathBuf>,
    /// It gets one of so many parts of the load.
    part: usize,
}

async fn train(program: &Program) {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();

    let plain = Trainee::start(program, dir.path(), "", "", Version::HTTP_11).await;
    plain.load("kept connections", Load { requests: 3000, ..HTTP1 }).await;
    plain.load("a connection per request", Load { times: 600, ..HTTP1 }).await;
    plain.load("HTTP/2", Load { requests: 200, ..HTTP2 }).await;
    plain.end().await;

    let pair = format!("cert: {0}/cert.pem, key: {0}/key.pem", dir.path().display());
    let tls = Trainee::start(program, dir.path(), &format!("tls: {{{pair}}}"), "", Version::HTTP_11).await;
    let tls = Trainee { roots: Some(roots), ..tls };
    tls.load("TLS", Load { requests: 20, ..HTTP1 }).await;
    tls.load("a TLS connection per request", Load { times: 5, ..HTTP1 }).await;
    tls.load("HTTP/2 over TLS", Load { requests: 8, ..HTTP2 }).await;
    tls.end().await;

    let (gateway, log) = ("balance: p2c, upstream_protocol: h2c", "log: {access: {to: /dev/null}}");
    let h2c = Trainee::start(program, dir.path(), gateway, log, Version::HTTP_2).await;
    h2c.load("kept connections to h2c", Load { requests: 20, ..HTTP1 }).await;
    h2c.load("HTTP/2 to h2c", Load { requests: 8, ..HTTP2 }).await;
    h2c.end().await;
}

/// A gateway with three dataservers.
struct Trainee {
    gateway: Gateway,
    listen: SocketAddr,
    /// As of its program.
    part: usize,
    /// What vouches for it, if it speaks TLS.
    roots: Option<RootCertStore>,
}

/// Requests to a gateway.
#[derive(Clone, Copy)]
struct Load {
    version: Version,
    /// At the same time.
    connections: usize,
    /// One after the other, in the place of each.
    times: usize,
    /// At the same time, on each connection.
    streams: usize,
    /// One after the other, on each stream.
    requests: usize,
}

const HTTP1: Load = Load { version: Version::HTTP_11, connections: 64, times: 1, streams: 1, requests: 1 };
const HTTP2: Load = Load { version: Version::HTTP_2, connections: 8, streams: 16, ..HTTP1 };

impl Trainee {
    async fn start(program: &Program, dir: &Path, gateway: &str, more: &str, version: Version) -> Self {
        let file = dir.join("config.yaml");
        let any = "embedded_listen: {tcp: '127.0.0.1:0', http: '127.0.0.1:0', lookup: '127.0.0.1:0'}";
        let listen = "listen: '127.0.0.1:0', admin_listen: '127.0.0.1:0', workers: 1";
        let config =
            format!("gateway: {{{listen}, {gateway}}}\nnsq: {{{any}}}\nregistry: {{ttl: 1h}}\n{more}\n");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(&program.path);
        if let Some(counts) = &program.counts {
            command.env("LLVM_PROFILE_FILE", counts.join("%p.profraw"));
        }
        let gateway = Gateway::start(command, &file);
        let nsq: SocketAddr = gateway.said("embedded NSQ listens", "http").parse().unwrap();
        let listen = gateway.said("gateway listens", "listen").parse().unwrap();
        let admin = gateway.said("gateway listens", "admin").parse().unwrap();
        for _ in 0..3 {
            announce(nsq, admin, dataserver(version).await).await;
        }
        Self { gateway, listen, part: program.part, roots: None }
    }

    async fn load(&self, name: &str, load: Load) {
        let (times, requests) = (load.times.div_ceil(self.part), load.requests.div_ceil(self.part));
        let load = Load { times, requests, ..load };
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for place in 0..load.connections {
            let (listen, tls) = (self.listen, self.roots.clone().map(|roots| connector(roots, load.version)));
            clients.spawn(async move {
                for time in 0..load.times {
                    let stream = TcpStream::connect(listen).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    match &tls {
                        None => use_connection(stream, load, place + time).await,
                        Some(tls) => {
                            let name = ServerName::try_from("localhost").unwrap();
                            let stream = tls.connect(name, stream).await.unwrap();
                            use_connection(stream, load, place + time).await;
                        }
                    }
                }
            });
        }
        clients.join_all().await;
        let all = load.connections * times * load.streams * requests;
        println!("{name:30} {all:7} requests in {:5.2} s", begun.elapsed().as_secs_f64());
    }

    /// The counts are written when it ends by itself.
    async fn end(mut self) {
        let pid = Pid::from_child(&self.gateway.child);
        kill_process(pid, Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || self.gateway.child.wait().unwrap());
        assert!(ended.await.unwrap().success());
    }
}

fn connector(roots: RootCertStore, version: Version) -> TlsConnector {
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let protocol: &[u8] = if version == Version::HTTP_2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Of the kinds of requests, begins with this one.
async fn use_connection<S>(stream: S, load: Load, first: usize)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    if load.version == Version::HTTP_2 {
        let (sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut streams = JoinSet::new();
        for stream in 0..load.streams {
            let mut sender = sender.clone();
            streams.spawn(async move {
                for n in 0..load.requests {
                    let asked = Asked::number(first + stream + n);
                    asked.check(sender.send_request(asked.request(load)).await.unwrap()).await;
                }
            });
        }
        streams.join_all().await;
    } else {
        let (mut sender, connection) = conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        for n in 0..load.requests {
            let asked = Asked::number(first + n);
            asked.check(sender.send_request(asked.request(load)).await.unwrap()).await;
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
enum Asked {
    Small,
    /// As a browser asks.
    Page,
    Head,
    Large,
    Missing,
    Upload,
    /// Without a length.
    Stream,
}

impl Asked {
    fn number(n: usize) -> Self {
        match n % 16 {
            3 | 15 => Self::Page,
            5 => Self::Upload,
            7 => Self::Head,
            9 => Self::Stream,
            11 => Self::Missing,
            13 => Self::Large,
            _ => Self::Small,
        }
    }

    fn request(self, load: Load) -> Request<Body> {
        let (method, path) = match self {
            Self::Small | Self::Page => (Method::GET, "/"),
            Self::Head => (Method::HEAD, "/"),
            Self::Large => (Method::GET, "/large"),
            Self::Missing => (Method::GET, "/missing?a=b&c=d"),
            Self::Upload | Self::Stream => (Method::POST, "/echo"),
        };
        let mut request = Request::builder().method(method);
        if load.version == Version::HTTP_2 {
            request = request.uri(format!("http://localhost{path}"));
        } else {
            request = request.uri(path).header(header::HOST, "localhost");
            if load.times > 1 {
                request = request.header(header::CONNECTION, "close");
            }
        }
        if matches!(self, Self::Page | Self::Upload) {
            let fields = [
                ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
                ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
                ("accept-language", "en-US,en;q=0.5"),
                ("accept-encoding", "gzip, deflate, br, zstd"),
                ("cookie", "session=4f1c2a7e9b3d4c5f8a6b7c8d9e0f1a2b; theme=dark"),
                ("sec-fetch-dest", "document"),
                ("sec-fetch-mode", "navigate"),
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ];
            for (name, value) in fields {
                request = request.header(name, value);
            }
        }
        let body = match self {
            Self::Upload => whole(vec![b'u'; 200]),
            Self::Stream => Parts(4).boxed(),
            _ => whole(Vec::new()),
        };
        request.body(body).unwrap()
    }

    async fn check(self, response: Response<Incoming>) {
        let (status, length) = match self {
            Self::Small | Self::Page => (StatusCode::OK, SMALL),
            Self::Head => (StatusCode::OK, 0),
            Self::Large => (StatusCode::OK, LARGE),
            Self::Missing => (StatusCode::NOT_FOUND, 0),
            Self::Upload => (StatusCode::OK, 200),
            Self::Stream => (StatusCode::OK, 4 * PART),
        };
        assert_eq!(response.status(), status);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), length);
    }
}

/// A dataserver that speaks this, for as long as the program runs.
async fn dataserver(version: Version) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let io = TokioIo::new(stream);
            let answer = service_fn(|request| async { Ok::<_, Infallible>(answer(request).await) });
            tokio::spawn(async move {
                // The gateway closes it when it ends.
                let _ = match version {
                    Version::HTTP_2 => {
                        http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await
                    }
                    _ => http1::Builder::new().serve_connection(io, answer).await,
                };
            });
        }
    });
    addr
}

async fn answer(request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = match parts.uri.path() {
        "/" => whole(vec![b'a'; SMALL]),
        "/large" => whole(vec![b'l'; LARGE]),
        "/echo" => whole(body.collect().await.unwrap().to_bytes()),
        _ => {
            let missing = Response::builder().status(StatusCode::NOT_FOUND);
            return missing.body(whole(Vec::new())).unwrap();
        }
    };
    Response::builder().header(header::CONTENT_TYPE, "text/plain").body(body).unwrap()
}

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// A body of so many parts that does not say how long it is.
struct Parts(usize);

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        Poll::Ready(left.map(|_| Ok(Frame::data(Bytes::from(vec![b's'; PART])))))
    }
}

/// Says to the embedded NSQ of a gateway that a dataserver lives, and waits until the gateway has heard it.
async fn announce(nsq: SocketAddr, admin: SocketAddr, addr: SocketAddr) {
    let addr = addr.to_string();
    let length = addr.len();
    let head = format!("POST /pub?topic=data_server_addr HTTP/1.1\r\nhost: a\r\ncontent-length: {length}");
    assert!(ask(nsq, &format!("{head}\r\nconnection: close\r\n\r\n{addr}")).starts_with("HTTP/1.1 200 "));
    let patience = Instant::now() + Duration::from_secs(30);
    while !ask(admin, "GET /dataservers HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").contains(&addr) {
        assert!(Instant::now() < patience, "{addr} is not heard");
        sleep(Duration::from_millis(10)).await;
    }
}

fn ask(to: SocketAddr, request: &str) -> String {
    let mut stream = StdStream::connect(to).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
