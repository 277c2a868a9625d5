//! A dataserver that does exactly what a test says.

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, SockFilter, SockRef, Socket, Type};

use super::http::{read_body, read_head};

/// A request as it reached a stub.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub first: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing said.
    pub complete: bool,
}

impl Exchange {
    /// The values of a field.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A listener with a thread a connection.
pub struct Stub {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Exchange>>>,
    connections: Arc<AtomicUsize>,
}

impl Stub {
    /// Hands every connection to `serve`.
    pub fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The kernel drops who finds no room in the queue, and one second later, when it is tried again, is too late.
        SockRef::from(&listener).listen(4096).unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (serve, counted) = (Arc::new(serve), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { addr, requests: Arc::default(), connections }
    }

    /// Answers every request with the bytes that `answer` makes of it; an empty answer closes the connection.
    pub fn answering(answer: impl Fn(&Exchange) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Exchange>>> = Arc::default();
        let seen = requests.clone();
        let stub = Self::raw(move |mut stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some((first, headers)) = read_head(&mut reader) {
                let (body, complete) = read_body(&mut reader, &headers, false);
                let exchange = Exchange { first, headers, body, complete };
                let bytes = answer(&exchange);
                seen.lock().unwrap().push(exchange);
                if bytes.is_empty() || stream.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        Self { requests, ..stub }
    }

    /// Answers every request with 200 and this body.
    pub fn ok(body: &'static str) -> Self {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        Self::answering(move |_| answer.clone())
    }

    /// An address that refuses connections.
    pub fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    /// So many of them. They are held for as long as the tests run: nobody gets to listen on one of so many by chance.
    pub fn all_refusing(count: usize) -> Vec<SocketAddr> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let held = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&any).unwrap();
            let addr = socket.local_addr().unwrap().as_socket().unwrap();
            std::mem::forget(socket); // bound, and not listening
            addr
        };
        (0..count).map(|_| held()).collect()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests that reached it, whole, so far.
    pub fn requests(&self) -> Vec<Exchange> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Nothing more gets in on this connection, not even to its kernel, and nobody is told: as if its machine were gone.
pub fn go_deaf(connection: &impl std::os::fd::AsFd) {
    // Classic BPF, as linux/filter.h names it: of every packet nothing is kept.
    const RETURN: u16 = 0x06;
    SockRef::from(connection).attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)]).unwrap();
}
