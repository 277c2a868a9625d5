//! The embedded NSQ over real sockets, spoken to in raw protocol.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{EmbeddedNsq, Limits, Listen};

mod bounds;
mod consuming;
mod http;
mod lookup;
mod session;

/// Longer than anything here takes; a test that reaches it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    addresses: Listen,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

fn loopback() -> Listen {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    Listen { tcp: any_port, http: any_port, lookup: any_port }
}

async fn start(limits: Limits) -> Server {
    start_on(loopback(), limits).await
}

async fn start_on(listen: Listen, limits: Limits) -> Server {
    let nsq = EmbeddedNsq::bind(listen, limits).await.expect("ports chosen by the system");
    let addresses = nsq.addresses();
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(async {
        let all_gone = nsq.run(async {
            let _ = stopped.await;
        });
        all_gone.await.await;
    });
    Server { addresses, stop: Some(stop), running }
}

impl Server {
    async fn client(&self) -> Client {
        let mut client = Client::connect(self.addresses.tcp).await;
        client.send(b"  V2").await;
        client
    }

    /// A client that is subscribed and takes this many messages.
    async fn consumer(&self, topic: &str, channel: &str, ready: u32) -> Client {
        let mut client = self.client().await;
        client.command(&format!("SUB {topic} {channel}")).await;
        assert_eq!(client.frame().await, Frame::response("OK"));
        client.command(&format!("RDY {ready}")).await;
        client
    }

    async fn publish(&self, topic: &str, body: &str) {
        let mut client = self.client().await;
        client.publish(topic, body.as_bytes()).await;
    }

    async fn get(&self, path: &str) -> Answer {
        request(self.addresses.http, "GET", path, b"").await
    }

    async fn post(&self, path: &str, body: &[u8]) -> Answer {
        request(self.addresses.http, "POST", path, body).await
    }

    async fn lookup(&self, path: &str) -> Answer {
        request(self.addresses.lookup, "GET", path, b"").await
    }

    /// The statistics of one topic; `null` where there is none.
    async fn topic(&self, topic: &str) -> Value {
        let path = format!("/stats?format=json&topic={}", topic.replace('#', "%23"));
        let mut stats = self.get(&path).await.json();
        stats["topics"].as_array_mut().and_then(Vec::pop).unwrap_or_default()
    }

    /// The statistics of one channel; `null` where there is none.
    async fn channel(&self, topic: &str, channel: &str) -> Value {
        let mut stats = self.topic(topic).await;
        let channels = stats.get_mut("channels").and_then(Value::as_array_mut);
        let found = channels.into_iter().flatten().find(|stats| stats["channel_name"] == channel);
        found.map(Value::take).unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Frame {
    Response(String),
    Error(String),
    Message {
        id: String,
        attempts: u16,
        timestamp_nanos: i64,
        body: String,
    },
    /// The server has closed the connection in order.
    Closed,
    /// The connection broke off.
    Reset,
}

impl Frame {
    fn response(text: &str) -> Self {
        Self::Response(text.to_owned())
    }

    fn error(text: &str) -> Self {
        Self::Error(text.to_owned())
    }
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("the server listens");
        Self { stream, input: BytesMut::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    async fn command(&mut self, line: &str) {
        self.send(format!("{line}\n").as_bytes()).await;
    }

    async fn command_with_body(&mut self, line: &str, body: &[u8]) {
        self.send(&[line.as_bytes(), b"\n", &prefixed(body)].concat()).await;
    }

    async fn publish(&mut self, topic: &str, body: &[u8]) {
        self.command_with_body(&format!("PUB {topic}"), body).await;
        assert_eq!(self.frame().await, Frame::response("OK"));
    }

    async fn frame(&mut self) -> Frame {
        timeout(PATIENCE, self.read_frame()).await.expect("a frame in time")
    }

    async fn read_frame(&mut self) -> Frame {
        loop {
            if let Some(size) = self.input.first_chunk::<4>() {
                let size = u32::from_be_bytes(*size) as usize;
                if self.input.len() >= 4 + size {
                    self.input.advance(4);
                    return parse_frame(self.input.split_to(size));
                }
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Frame::Closed,
                Err(_) => return Frame::Reset,
                Ok(_) => {}
            }
        }
    }

    /// The next frame as a message: its ID, attempts and body.
    async fn message(&mut self) -> (String, u16, String) {
        match self.frame().await {
            Frame::Message { id, attempts, body, .. } => (id, attempts, body),
            other => panic!("no message but {other:?}"),
        }
    }

    /// Takes a message, finishes it, and returns its body.
    async fn consume(&mut self) -> String {
        let (id, _, body) = self.message().await;
        self.command(&format!("FIN {id}")).await;
        body
    }

    /// Fails where a message is on its way. A publish to another topic is answered after every
    /// message that was there before it.
    async fn expect_no_message(&mut self) {
        self.publish("elsewhere", b"x").await;
    }
}

fn parse_frame(mut frame: BytesMut) -> Frame {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match frame.get_u32() {
        0 => Frame::Response(text(&frame)),
        1 => Frame::Error(text(&frame)),
        2 => {
            let timestamp_nanos = frame.get_i64();
            let attempts = frame.get_u16();
            let id = text(&frame.split_to(16));
            Frame::Message { id, attempts, timestamp_nanos, body: text(&frame) }
        }
        kind => panic!("frame of kind {kind}"),
    }
}

fn prefixed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).expect("small").to_be_bytes(), body].concat()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

async fn request(addr: SocketAddr, method: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: nsq\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await.expect("the server listens");
        // A body that is too big is answered before it is read, so writing may fail.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("UTF-8")
    };
    let answer = timeout(PATIENCE, exchange).await.expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.expect("a status"), head: head.to_lowercase(), body: body.to_owned() }
}

/// Polls until the condition holds.
async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let poll = async {
        while !condition().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(PATIENCE, poll).await.is_ok(), "never: {what}");
}
