//! A dataserver within the drill that knows when each request has reached it, and whose manners can be changed.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::{get, pause, read_body, read_head, request};

/// What a witness does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Answers every request.
    Answer,
    /// Reads requests and says nothing.
    Hang,
    /// Resets every connection, those that are open and those that come.
    Reset,
    /// Answers, and closes a connection that was idle for so long.
    CloseIdle(Duration),
}

/// A dataserver within the drill.
pub struct Witness {
    pub addr: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    addr: SocketAddr,
    manner: Mutex<Manner>,
    /// When, and the request line.
    requests: Mutex<Vec<(Instant, String)>>,
    connections: Mutex<Vec<TcpStream>>,
    connected: AtomicUsize,
}

impl Witness {
    pub fn start(manner: Manner) -> Self {
        Self::at("127.0.0.1:0", manner)
    }

    /// At one port of every address of this machine.
    pub fn anywhere(manner: Manner) -> Self {
        Self::at("0.0.0.0:0", manner)
    }

    fn at(listen: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind(listen).unwrap();
        let addr = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            addr,
            manner: Mutex::new(manner),
            requests: Mutex::default(),
            connections: Mutex::default(),
            connected: AtomicUsize::new(0),
        });
        let accepting = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                accepting.connected.fetch_add(1, Ordering::Relaxed);
                if *accepting.manner.lock().unwrap() == Manner::Reset {
                    reset(&stream);
                    continue;
                }
                let inner = accepting.clone();
                inner.connections.lock().unwrap().push(stream.try_clone().unwrap());
                std::thread::spawn(move || inner.serve(&stream));
            }
        });
        Self { addr, inner }
    }

    /// Changes its manners from now on.
    pub fn becomes(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap() = manner;
        if manner == Manner::Reset {
            self.inner.connections.lock().unwrap().drain(..).for_each(|stream| reset(&stream));
        }
    }

    /// How many connections have reached it.
    pub fn connections(&self) -> usize {
        self.inner.connected.load(Ordering::Relaxed)
    }

    /// How many requests have reached it.
    pub fn requests(&self) -> usize {
        self.inner.requests.lock().unwrap().len()
    }
}

/// How many requests of a method have reached these more than once. Each has a path of its own.
pub fn repeated(witnesses: &[&Witness], method: &str) -> usize {
    let mut times = BTreeMap::<String, usize>::new();
    for witness in witnesses {
        for (_, first) in witness.inner.requests.lock().unwrap().iter() {
            if first.starts_with(method) {
                *times.entry(first.clone()).or_default() += 1;
            }
        }
    }
    times.values().filter(|times| **times > 1).count()
}

impl Inner {
    fn serve(&self, stream: &TcpStream) {
        if let Manner::CloseIdle(idle) = *self.manner.lock().unwrap() {
            stream.set_read_timeout(Some(idle)).unwrap();
        }
        let answer = format!("{{\"dataserver\":\"{}\"}}", self.addr);
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
        let mut reader = BufReader::new(stream);
        while let Some((first, headers)) = read_head(&mut reader) {
            let (_, complete) = read_body(&mut reader, &headers, false);
            self.requests.lock().unwrap().push((Instant::now(), first));
            if *self.manner.lock().unwrap() == Manner::Hang {
                // Until the other side has had enough.
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
                return;
            }
            if !complete || (&mut &*stream).write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// Makes a connection end with RST as soon as whoever reads from it has let go.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(std::net::Shutdown::Read);
}

/// Announces addresses over the HTTP of an nsqd, every half second, until it is dropped.
pub struct Beats {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Beats {
    pub fn of(addrs: Vec<String>, nsqd_http: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // An nsqd that does not answer is what some drills are about.
                let _ = publish(nsqd_http, "mpub", addrs.join("\n").as_bytes());
                pause(Duration::from_millis(500));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Beats {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Publishes heartbeats by nsqd's `/pub` or `/mpub`, and waits until they were taken.
pub fn publish(nsqd_http: SocketAddr, how: &str, body: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(nsqd_http)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let separator = if how.contains('?') { '&' } else { '?' };
    let path = format!("POST /{how}{separator}topic=data_server_addr");
    stream.write_all(&request(&path, &[("connection", "close")], body))?;
    let head = read_head(&mut BufReader::new(stream));
    match head {
        Some((first, _)) if first.contains(" 200 ") => Ok(()),
        head => Err(std::io::Error::other(format!("{head:?}"))),
    }
}

/// How many messages an nsqd has that nobody has finished.
pub fn unread(nsqd_http: SocketAddr) -> usize {
    let stats = get(nsqd_http, "/stats?format=json&topic=data_server_addr").json();
    let channels = stats["topics"][0]["channels"].as_array().into_iter().flatten();
    let unread = channels.map(|channel| {
        ["depth", "in_flight_count"].iter().filter_map(|count| channel[count].as_u64()).sum::<u64>()
    });
    usize::try_from(unread.sum::<u64>()).unwrap()
}
