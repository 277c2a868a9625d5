//! An nsqd whose clock says what a test wants, with the HTTP side one port above the TCP side, as is the custom.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use super::http::read_head;

/// What is at the HTTP side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpSide {
    Nsqd,
    /// It accepts connections and says nothing.
    Silent,
    /// Another service, whose clock is an hour ahead.
    Another,
    /// Nobody.
    Closed,
}

/// An nsqd with one topic, one channel and one consumer at a time.
pub struct NsqdStub {
    pub tcp: SocketAddr,
    state: Arc<State>,
}

struct State {
    http: HttpSide,
    /// Seconds that its clock is ahead.
    offset: AtomicI32,
    /// Frames that wait for a consumer.
    queue: Mutex<VecDeque<Vec<u8>>>,
    published: Condvar,
    finished: AtomicUsize,
    dropped: AtomicBool,
}

impl NsqdStub {
    /// Starts one whose clock is ahead by this many seconds.
    pub fn start(http: HttpSide, offset: i32) -> Self {
        let (tcp, http_side) = neighbours();
        let state = Arc::new(State {
            http,
            offset: AtomicI32::new(offset),
            queue: Mutex::default(),
            published: Condvar::new(),
            finished: AtomicUsize::new(0),
            dropped: AtomicBool::new(false),
        });
        let stub = Self { tcp: tcp.local_addr().unwrap(), state };
        stub.listen(tcp, State::consume);
        if http != HttpSide::Closed {
            stub.listen(http_side, State::answer);
        }
        stub
    }

    fn listen(&self, listener: TcpListener, serve: fn(&State, TcpStream)) {
        let state = self.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = state.clone();
                std::thread::spawn(move || serve(&state, stream));
            }
        });
    }

    /// Sets its clock ahead by this many seconds.
    pub fn set_clock(&self, offset: i32) {
        self.state.offset.store(offset, Ordering::SeqCst);
    }

    /// Publishes a message as of some time ago, by the clock of now.
    pub fn publish(&self, body: &str, ago: Duration) {
        self.state.publish(body, ago);
    }

    /// Publishes this heartbeat five times a second, for as long as the stub is there.
    pub fn beat(&self, body: &str) {
        let (state, body) = (self.state.clone(), body.to_owned());
        std::thread::spawn(move || {
            while !state.dropped.load(Ordering::SeqCst) {
                state.publish(&body, Duration::ZERO);
                super::pause(Duration::from_millis(200));
            }
        });
    }

    /// How many messages were finished.
    pub fn finished(&self) -> usize {
        self.state.finished.load(Ordering::SeqCst)
    }
}

impl Drop for NsqdStub {
    fn drop(&mut self) {
        self.state.dropped.store(true, Ordering::SeqCst);
    }
}

/// Two listeners on ports that follow each other.
fn neighbours() -> (TcpListener, TcpListener) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let next = first.local_addr().unwrap().port().checked_add(1);
        if let Some(Ok(second)) = next.map(|port| TcpListener::bind(("127.0.0.1", port))) {
            return (first, second);
        }
    }
}

/// A frame as nsqd sends it.
pub fn frame(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// What nsqd answers to IDENTIFY.
pub const IDENTIFIED: &[u8] =
    br#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,
    "tls_v1":false,"deflate":false,"deflate_level":0,"max_deflate_level":0,"snappy":false,"sample_rate":0,
    "auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250}"#;

impl State {
    fn clock(&self) -> SystemTime {
        let offset = self.offset.load(Ordering::SeqCst);
        let by = Duration::from_secs(offset.unsigned_abs().into());
        if offset < 0 { SystemTime::now() - by } else { SystemTime::now() + by }
    }

    fn publish(&self, body: &str, ago: Duration) {
        let stamp = (self.clock() - ago).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let mut message = i64::try_from(stamp).unwrap().to_be_bytes().to_vec();
        message.extend_from_slice(&1u16.to_be_bytes());
        let mut queue = self.queue.lock().unwrap();
        message.extend_from_slice(format!("{:016x}", stamp % (1 << 60)).as_bytes());
        message.extend_from_slice(body.as_bytes());
        queue.push_back(frame(2, &message));
        self.published.notify_all();
    }

    /// The protocol of a consumer.
    fn consume(&self, stream: TcpStream) {
        let _ = self.converse(stream);
    }

    fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?; // the magic and IDENTIFY
        let mut len = [0; 4];
        reader.read_exact(&mut len)?;
        reader.read_exact(&mut vec![0; u32::from_be_bytes(len) as usize])?;
        stream.write_all(&frame(0, IDENTIFIED))?;
        reader.read_line(&mut line)?; // SUB
        stream.write_all(&frame(0, b"OK"))?;
        reader.read_line(&mut line)?; // RDY
        std::thread::scope(|scope| {
            scope.spawn(|| self.deliver(&stream));
            for line in reader.lines().map_while(Result::ok) {
                self.finished.fetch_add(usize::from(line.starts_with("FIN ")), Ordering::SeqCst);
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
        Ok(())
    }

    fn deliver(&self, mut stream: &TcpStream) {
        loop {
            let queue = self.queue.lock().unwrap();
            let quiet = Duration::from_millis(500);
            let (mut queue, _) =
                self.published.wait_timeout_while(queue, quiet, |queue| queue.is_empty()).unwrap();
            let frames: Vec<_> = queue.drain(..).collect();
            drop(queue);
            let frames = if frames.is_empty() { frame(0, b"_heartbeat_") } else { frames.concat() };
            if stream.write_all(&frames).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((first, _)) = read_head(&mut reader) {
            if self.http == HttpSide::Silent {
                continue;
            }
            let asked = |key: &str| {
                let (_, value) = first.split_once(&format!("{key}="))?;
                value.split(['&', ' ']).next().map(|value| value.replace("%23", "#"))
            };
            let body = if let (HttpSide::Nsqd, Some(topic), Some(channel)) =
                (self.http, asked("topic"), asked("channel"))
            {
                let channel =
                    serde_json::json!({"channel_name": channel, "client_count": 1, "clients": null});
                serde_json::json!({"topics": [{"topic_name": topic, "channels": [channel]}]})
            } else {
                serde_json::json!({"topics": []})
            };
            let ahead = Duration::from_secs(if self.http == HttpSide::Another { 3600 } else { 0 });
            let (date, body) = (httpdate::fmt_http_date(self.clock() + ahead), body.to_string());
            let head = format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: {}\r\n\r\n", body.len());
            if stream.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }
}
