//! What single steps cost: `cargo bench --bench micro`.

#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use http_body_util::{BodyExt, Empty};
use nsq_gateway::addr::{Addr, Dialable, OwnListeners};
use nsq_gateway::config::Config;
use nsq_gateway::heartbeat::Heartbeat;
use nsq_gateway::http1::{self, HeadRules, Limits, Scratch};
use nsq_gateway::message::Request;
use nsq_gateway::metrics::Metrics;
use nsq_gateway::presence::Phase;
use nsq_gateway::protocol::Protocol;
use nsq_gateway::proxy;
use nsq_gateway::registry::{self, Beat, Registry, Settings};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tower::Service;

const SIZES: [usize; 3] = [3, 1_000, 100_000];

fn addrs(count: usize) -> Vec<Addr> {
    (0..count)
        .map(|n| format!("10.{}.{}.{}:80", n >> 16 & 255, n >> 8 & 255, n & 255).parse().unwrap())
        .collect()
}

fn beat(addr: &Addr, sent: Instant) -> Beat<'_> {
    Beat { addr, protocol: Protocol::Http1, phase: Phase::Up, incarnation: None, sent, nsqd: "nsqd:4150" }
}

fn filled(addrs: &[Addr]) -> Registry {
    let registry = Registry::new(Settings {
        ttl: Duration::from_secs(3600),
        capacity: addrs.len(),
        join_rate: 1_000_000,
        trusted_joins: 1_000_000,
        ..Settings::default()
    });
    let now = Instant::now();
    for addr in addrs {
        registry.record(&beat(addr, now), now);
    }
    registry.publish();
    registry
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("pick");
    for size in SIZES {
        let registry = filled(&addrs(size));
        let (mut reader, mut rng, now) = (registry.reader(), SmallRng::seed_from_u64(7), Instant::now());
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| reader.pick(now, &mut rng, &[]).map(|entry| entry.id()));
        });
    }
}

fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("record a heartbeat");
    for size in SIZES {
        let addrs = addrs(size);
        let registry = filled(&addrs);
        let (now, mut next) = (Instant::now(), addrs.iter().cycle());
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| registry.record(&beat(next.next().unwrap(), now), now));
        });
    }
}

fn sweep(c: &mut Criterion) {
    let mut group = c.benchmark_group("sweep that finds nobody");
    for size in SIZES {
        let registry = filled(&addrs(size));
        let now = Instant::now();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| registry.sweep(now, Duration::ZERO).len());
        });
    }
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish a snapshot");
    for size in SIZES {
        let registry = filled(&addrs(size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(|| (), |()| registry.publish(), BatchSize::SmallInput);
        });
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode a heartbeat");
    for (name, body) in [("plain", &b"10.1.2.3:10001"[..]), ("json", br#"{"addr":"10.1.2.3:10001","seq":7}"#)]
    {
        group.bench_function(name, |b| b.iter(|| Heartbeat::decode(body)));
    }
}

/// A socket on which the same bytes come again and again, so many times; what goes out is dropped.
struct Repeated {
    bytes: Vec<u8>,
    times: u64,
    /// They come once for each message that goes out, and not at once.
    in_turn: bool,
    due: bool,
}

impl Repeated {
    fn new(bytes: &[u8], times: u64, in_turn: bool) -> Self {
        Self { bytes: bytes.to_vec(), times, in_turn, due: !in_turn }
    }
}

impl http1::Io for Repeated {}

impl AsyncRead for Repeated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.due {
            return Poll::Pending;
        }
        if self.times > 0 {
            buf.put_slice(&self.bytes);
            self.times -= 1;
            self.due = !self.in_turn;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Repeated {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.due = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.due = true;
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const HEAD_LIMITS: Limits = Limits { bytes: 65_536, fields: 100 };

/// The fields of a browser's request.
const BROWSER: &str = "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0\r\n\
    accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\naccept-language: en-US,en;q=0.5\r\n\
    accept-encoding: gzip, deflate, br, zstd\r\nreferer: https://example.org/a/page\r\n\
    cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes\r\n\
    sec-fetch-dest: document\r\nsec-fetch-mode: navigate\r\nsec-fetch-site: same-origin\r\n\
    x-forwarded-for: 192.0.2.1\r\nconnection: keep-alive\r\nkeep-alive: timeout=5\r\nte: trailers\r\n";

/// The way of a user's head through the layers, without sockets: read, checked, rewritten, answered here (which is what
/// `Max-Forwards: 0` asks for), and the answer's head written.
async fn users_heads(request: &[u8], times: u64) {
    let (config, registry) = (Config::default(), Registry::new(registry::Settings::default()));
    let metrics = Metrics::new(1, &[], &[]).unwrap();
    let dialable = Dialable::new(OwnListeners::new(Vec::new()), None);
    let (fixed, settings) = (proxy::Fixed::new(1, dialable, None), proxy::Settings::new(&config));
    let worker = proxy::Worker::new(0, &registry, &metrics, fixed, settings).unwrap();
    let client = proxy::Client { ip: [192, 0, 2, 7].into(), over_tls: false };
    let mut stack = proxy::stack(&worker, client);
    let call = move |request: Request<http1::Incoming>| {
        let answer = stack.call(request.map(proxy::Incoming::http1));
        async move { answer.await.unwrap_or_else(|never| match never {}) }
    };
    let refuse = |refusal| proxy::Error::from(refusal).response();
    let minute = Duration::from_secs(60);
    let (deadline, rules) = (Instant::now() + minute, || HeadRules { limits: HEAD_LIMITS, time: minute });
    let io = Repeated::new(request, times, false);
    let scratch = Rc::new(Scratch::new(65_536));
    http1::serve(io, |_| http1::Opening::Http1, (deadline, rules), scratch, call, refuse).await;
}

/// The other side of the gateway: a request's head written, its answer's read.
async fn dataservers_heads(answer: &[u8], times: u64) {
    let io = Repeated::new(answer, times, true);
    let client = http1::Client::new(io, Rc::new(Scratch::new(65_536)));
    let builder = http::Request::get("/a/path?query=1").header("host", "example.org");
    let request = builder.header("user-agent", "a browser").body(Empty::<Bytes>::new()).unwrap();
    let mut request = Request::from(request);
    for _ in 0..times {
        let answer = client.exchange(&mut request, HEAD_LIMITS, Duration::ZERO).await.ok().unwrap();
        answer.into_parts().1.collect().await.unwrap();
    }
}

fn heads(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("a head's way");
    let request = |fields: &str| {
        format!("OPTIONS /a/path?query=1 HTTP/1.1\r\nhost: example.org\r\nmax-forwards: 0\r\n{fields}\r\n")
            .into_bytes()
    };
    for (name, request) in [("a user's, bare", request("")), ("a user's, of a browser", request(BROWSER))] {
        group.bench_function(name, |b| {
            b.iter_custom(|times| {
                let begun = Instant::now();
                runtime.block_on(users_heads(&request, times));
                begun.elapsed()
            });
        });
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\netag: \"1\"\r\n\r\nok";
    group.bench_function("a dataserver's", |b| {
        b.iter_custom(|times| {
            let begun = Instant::now();
            runtime.block_on(dataservers_heads(answer, times));
            begun.elapsed()
        });
    });
}

criterion_group!(benches, pick, record, sweep, publish, decode, heads);
criterion_main!(benches);
