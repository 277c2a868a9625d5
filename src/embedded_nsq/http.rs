//! nsqd's HTTP API, and what both HTTP listeners share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Listen;
use super::broker::Broker;
use super::identify::VERSION;
use super::limits::Limits;
use super::message::wall_clock_nanos;
use super::protocol::split_batch;
use super::stats::Stats;

mod answer;
mod params;

pub(super) use self::answer::{Fault, ok, ok_empty, ok_json};
pub(super) use self::params::Params;

/// What the HTTP APIs tell about this process.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) broker: Broker,
    pub(super) hostname: String,
    addresses: Listen,
    /// Seconds since 1970.
    start_time: i64,
    started: Instant,
}

/// A request's view of the process: the node, and the address that the client has reached.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) node: Arc<Node>,
    local_ip: IpAddr,
}

impl Node {
    pub(super) fn new(broker: Broker, addresses: Listen) -> Self {
        Self {
            broker,
            hostname: hostname(),
            addresses,
            start_time: wall_clock_nanos() / 1_000_000_000,
            started: Instant::now(),
        }
    }
}

impl Context {
    /// The address where this client can reach the TCP protocol.
    pub(super) fn broadcast_address(&self) -> IpAddr {
        let listened = self.node.addresses.tcp.ip().to_canonical();
        if listened.is_unspecified() { self.local_ip } else { listened }
    }

    pub(super) fn tcp_port(&self) -> u16 {
        self.node.addresses.tcp.port()
    }

    pub(super) fn http_port(&self) -> u16 {
        self.node.addresses.http.port()
    }
}

/// At the end, whoever has come and said nothing yet has so long: mostly its request is there, and nobody has read it.
const FIRST_BYTE: Duration = Duration::from_millis(100);

/// Serves one HTTP connection until either side ends it or `shutdown` loses its sender.
pub(super) async fn serve(
    stream: TcpStream,
    routes: Router<Context>,
    node: Arc<Node>,
    mut shutdown: watch::Receiver<()>,
) {
    let Ok(local) = stream.local_addr() else { return };
    let head_timeout = node.broker.limits().http_timeout;
    if !says_something(&stream, head_timeout, &mut shutdown).await {
        return;
    }
    let context = Context { node, local_ip: local.ip().to_canonical() };
    let service = TowerToHyperService::new(routes.with_state(context));
    // Not `axum::serve`: it installs no timer, and a head that never ends would be waited for.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased; // told to end before it has read anything, it would
        ended = connection.as_mut() => ended,
        _ = shutdown.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "HTTP connection ended badly");
    }
}

/// Whether a first byte comes, or an end, within this time.
async fn says_something(stream: &TcpStream, within: Duration, shutdown: &mut watch::Receiver<()>) -> bool {
    let mut first = [0; 1];
    let mut says = std::pin::pin!(stream.peek(&mut first));
    tokio::select! {
        said = timeout(within, says.as_mut()) => said.is_ok(),
        _ = shutdown.changed() => timeout(FIRST_BYTE, says).await.is_ok(),
    }
}

/// nsqd's paths.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/ping", get(ping))
        .route("/info", get(info))
        .route("/stats", get(stats))
        .route("/pub", post(publish))
        .route("/mpub", post(publish_many))
        .route("/topic/create", post(create_topic))
        .route("/topic/delete", post(delete_topic))
        .route("/topic/empty", post(empty_topic))
        .route("/channel/create", post(create_channel))
        .route("/channel/delete", post(delete_channel))
        .route("/channel/empty", post(empty_channel))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
}

pub(super) async fn ping() -> &'static str {
    "OK"
}

pub(super) async fn not_found() -> Fault {
    Fault::NOT_FOUND
}

pub(super) async fn method_not_allowed() -> Fault {
    Fault::METHOD_NOT_ALLOWED
}

/// Durations are nanoseconds, as Go writes them.
#[derive(Debug, Serialize)]
struct Info {
    version: &'static str,
    broadcast_address: IpAddr,
    hostname: String,
    http_port: u16,
    tcp_port: u16,
    start_time: i64,
    max_heartbeat_interval: u128,
    max_output_buffer_size: usize,
    max_output_buffer_timeout: u128,
    max_deflate_level: u8,
}

async fn info(State(context): State<Context>) -> Result<Response, Fault> {
    let limits = context.node.broker.limits();
    ok_json(&Info {
        version: VERSION,
        broadcast_address: context.broadcast_address(),
        hostname: context.node.hostname.clone(),
        http_port: context.http_port(),
        tcp_port: context.tcp_port(),
        start_time: context.node.start_time,
        max_heartbeat_interval: limits.max_heartbeat_interval.as_nanos(),
        max_output_buffer_size: limits.max_output_buffer_bytes,
        max_output_buffer_timeout: limits.max_output_buffer_timeout.as_nanos(),
        max_deflate_level: 6,
    })
}

#[derive(Debug, Serialize)]
struct StatsAnswer {
    version: &'static str,
    health: &'static str,
    start_time: i64,
    #[serde(flatten)]
    stats: Stats,
}

async fn stats(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let wanted = |key| params.get(key).filter(|value| !value.is_empty());
    let clients = !matches!(params.get("include_clients"), Some("false" | "0"));
    let stats = context.node.broker.stats(wanted("topic"), wanted("channel"), clients);
    let start_time = context.node.start_time;
    if params.get("format") == Some("json") {
        let mut answer = ok_json(&StatsAnswer { version: VERSION, health: "OK", start_time, stats })?;
        // Gateways set this process's clock against their own by the date. hyper's stands still for as long as the
        // wall clock was set back.
        let date = httpdate::fmt_http_date(SystemTime::now());
        if let Ok(date) = date.parse() {
            answer.headers_mut().insert(header::DATE, date);
        }
        return Ok(answer);
    }
    let uptime_s = context.node.started.elapsed().as_secs();
    Ok(ok(format!(
        "nsqd v{VERSION}\nstart_time {start_time}\nuptime {uptime_s}s\n\nHealth: OK\n{}",
        stats.text()
    )))
}

async fn publish(
    State(context): State<Context>,
    params: Result<Params, Fault>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let broker = &context.node.broker;
    let limits = broker.limits();
    let body = read_body(broker, &headers, body, limits.message_bytes, Fault::MSG_TOO_BIG).await?;
    if body.is_empty() {
        return Err(Fault::MSG_EMPTY);
    }
    let params = params?;
    let topic = params.topic(Fault::INVALID_TOPIC)?;
    let delay = match params.get("defer") {
        None => Duration::ZERO,
        Some(ms) => ms
            .parse()
            .map(Duration::from_millis)
            .ok()
            .filter(|delay| *delay <= limits.max_delay)
            .ok_or(Fault::INVALID_DEFER)?,
    };
    broker.publish(topic, [body], delay)?;
    Ok(ok("OK"))
}

async fn publish_many(
    State(context): State<Context>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let broker = &context.node.broker;
    let limits = broker.limits();
    let topic = params.topic(Fault::INVALID_TOPIC)?;
    let body = read_body(broker, &headers, body, limits.body_bytes, Fault::BODY_TOO_BIG).await?;
    let binary = !matches!(params.get("binary"), None | Some("false" | "0"));
    let messages = if binary { split_batch(&body, limits)? } else { split_lines(&body, limits)? };
    broker.publish(topic, messages.into_iter().map(Bytes::copy_from_slice), Duration::ZERO)?;
    Ok(ok("OK"))
}

/// One message a line; empty lines are none.
fn split_lines<'a>(body: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Fault> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // One more than allowed is enough to know.
    let messages: Vec<_> = lines.take(limits.batch_messages + 1).collect();
    if messages.len() > limits.batch_messages {
        return Err(Fault::BODY_TOO_BIG);
    }
    if messages.iter().any(|message| message.len() > limits.message_bytes) {
        return Err(Fault::MSG_TOO_BIG);
    }
    Ok(messages)
}

pub(super) async fn create_topic(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    context.node.broker.create_topic(params.topic(Fault::INVALID_TOPIC)?)?;
    Ok(ok_empty())
}

async fn delete_topic(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let topic = params.get("topic").ok_or(Fault::MISSING_ARG_TOPIC)?;
    context.node.broker.delete_topic(topic)?;
    Ok(ok_empty())
}

async fn empty_topic(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let topic = params.topic(Fault::INVALID_TOPIC)?;
    context.node.broker.empty_topic(topic.as_str())?;
    Ok(ok_empty())
}

pub(super) async fn create_channel(
    State(context): State<Context>,
    params: Params,
) -> Result<Response, Fault> {
    let (topic, channel) = params.topic_and_channel()?;
    context.node.broker.create_channel(topic, channel)??;
    Ok(ok_empty())
}

async fn delete_channel(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let (topic, channel) = params.topic_and_channel()?;
    context.node.broker.delete_channel(topic.as_str(), channel.as_str())?;
    Ok(ok_empty())
}

async fn empty_channel(State(context): State<Context>, params: Params) -> Result<Response, Fault> {
    let (topic, channel) = params.topic_and_channel()?;
    context.node.broker.empty_channel(topic.as_str(), channel.as_str())?;
    Ok(ok_empty())
}

/// Reads a body of at most `limit` bytes, in the time and the memory that the limits allow.
async fn read_body(
    broker: &Broker,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    too_big: Fault,
) -> Result<Bytes, Fault> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > limit as u64) {
        return Err(too_big);
    }
    let read = collect(broker, body, limit, too_big);
    timeout(broker.limits().http_timeout, read).await.map_err(|_| Fault::REQUEST_TIMEOUT)?
}

async fn collect(broker: &Broker, mut body: Body, limit: usize, too_big: Fault) -> Result<Bytes, Fault> {
    let mut charge = broker.input_charge().ok_or(Fault::MEMORY_FULL)?;
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::INTERNAL_ERROR)?;
        let Some(data) = frame.data_ref() else { continue };
        let total = collected.len() + data.len();
        if total > limit {
            return Err(too_big);
        }
        if !charge.resize(total) {
            return Err(Fault::MEMORY_FULL);
        }
        collected.extend_from_slice(data);
    }
    // A copy of the exact size: the message may stay, what its buffer grew to must not.
    Ok(Bytes::copy_from_slice(&collected))
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
