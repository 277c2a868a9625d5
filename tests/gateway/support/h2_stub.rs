//! A dataserver that speaks HTTP/2 and does exactly what a test says.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response, request};

/// A request as it reached a stub, whole.
#[derive(Debug, Clone)]
pub struct H2Exchange {
    pub head: request::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

type Served = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A listener with a thread of its own.
pub struct H2Stub {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<H2Exchange>>>,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

/// What a stub does with its connections.
#[derive(Clone, Copy, Default)]
pub struct Connections {
    /// Streams that it allows at once.
    pub max_streams: Option<u32>,
    /// It says GOAWAY when it has taken as many, and lets them end.
    pub goaway_after: Option<usize>,
    /// It closes the connection under this one.
    pub close_at: Option<usize>,
    /// Bytes of one stream that it makes room for.
    pub window: Option<u32>,
    /// It hears nothing more on the connection that this one came on.
    pub deaf_at: Option<usize>,
}

impl H2Stub {
    /// Hands every stream to `serve`.
    pub fn raw(
        connections: Connections,
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> Served + Send + Sync + 'static,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        let stub = Self { addr, requests: Arc::default(), opened: Arc::default(), closed: Arc::default() };
        let (opened, closed, serve) = (stub.opened.clone(), stub.closed.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    opened.fetch_add(1, Ordering::SeqCst);
                    let (serve, closed) = (serve.clone(), closed.clone());
                    tokio::spawn(async move {
                        connection(stream, connections, &*serve).await;
                        closed.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
        });
        stub
    }

    /// Takes every request in whole, and hands it to `serve` with what to answer through.
    pub fn answering<F: Future<Output = ()> + Send + 'static>(
        connections: Connections,
        answer: impl Fn(H2Exchange, SendResponse<Bytes>) -> F + Send + Sync + Clone + 'static,
    ) -> Self {
        let requests: Arc<Mutex<Vec<H2Exchange>>> = Arc::default();
        let seen = requests.clone();
        let stub = Self::raw(connections, move |request, respond| {
            let (answer, seen) = (answer.clone(), seen.clone());
            Box::pin(async move {
                let Some(exchange) = take(request).await else { return };
                seen.lock().unwrap().push(exchange.clone());
                answer(exchange, respond).await;
            })
        });
        Self { requests, ..stub }
    }

    /// Answers every request with 200 and this body.
    pub fn ok(body: &'static str) -> Self {
        Self::answering(Connections::default(), move |_, respond| async move { ok(respond, body) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The requests that reached it, whole, so far.
    pub fn requests(&self) -> Vec<H2Exchange> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections it has taken, and how many of them have ended.
    pub fn connections(&self) -> (usize, usize) {
        (self.opened.load(Ordering::SeqCst), self.closed.load(Ordering::SeqCst))
    }
}

/// Answers 200 with this body.
pub fn ok(mut respond: SendResponse<Bytes>, body: &'static str) {
    // Whoever asked may have gone.
    if let Ok(mut stream) = respond.send_response(Response::new(()), body.is_empty()) {
        let _ = stream.send_data(Bytes::from_static(body.as_bytes()), true);
    }
}

async fn connection(
    stream: tokio::net::TcpStream,
    connections: Connections,
    serve: &(dyn Fn(Request<RecvStream>, SendResponse<Bytes>) -> Served + Send + Sync),
) {
    let socket = socket2::SockRef::from(&stream).try_clone().unwrap();
    let mut builder = Builder::new();
    if let Some(max) = connections.max_streams {
        builder.max_concurrent_streams(max);
    }
    if let Some(window) = connections.window {
        builder.initial_window_size(window);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut taken = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        taken += 1;
        if connections.close_at == Some(taken) {
            return;
        }
        if connections.deaf_at == Some(taken) {
            super::go_deaf(&socket);
            // It would say what has become of it.
            return std::future::pending().await;
        }
        tokio::spawn(serve(request, respond));
        if connections.goaway_after == Some(taken) {
            connection.graceful_shutdown();
        }
    }
}

/// The whole request; `None` if it breaks off.
pub async fn take(request: Request<RecvStream>) -> Option<H2Exchange> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(part) = stream.data().await {
        let part = part.ok()?;
        let _ = stream.flow_control().release_capacity(part.len());
        body.extend_from_slice(&part);
    }
    let trailers = stream.trailers().await.ok()?;
    Some(H2Exchange { head, body, trailers })
}
