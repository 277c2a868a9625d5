//! What the sample dataserver answers: enough to see who answered, what reached it, and how bodies fare.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::middleware;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{any, get};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio_util::sync::CancellationToken;

use crate::addr::Addr;

/// Longest `/bytes/{n}`.
const MAX_BYTES: u64 = 1 << 30;

/// Longest `/delay/{ms}`.
const MAX_DELAY: Duration = Duration::from_secs(600);

const CHUNK: &[u8] = &[b'x'; 64 * 1024];

#[derive(Clone)]
struct Me {
    addr: Addr,
    name: String,
}

pub(super) fn router(addr: Addr, name: String, stop: CancellationToken) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/echo", any(echo))
        .route("/bytes/{n}", get(bytes))
        .route("/delay/{ms}", any(delay))
        .fallback(who)
        .with_state(Me { addr, name })
        .layer(middleware::map_response_with_state(stop, last_of_its_connection))
}

/// Once it drains, each answer is the last of its connection: when the listener closes, none is left on which a
/// request may just be coming in.
async fn last_of_its_connection(State(stop): State<CancellationToken>, mut answer: Response) -> Response {
    if stop.is_cancelled() {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Who answers, and what reached it.
async fn who(State(me): State<Me>, method: Method, uri: Uri, headers: HeaderMap) -> impl IntoResponse {
    let mut fields = serde_json::Map::new();
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        fields.insert(name.to_string(), values.join(", ").into());
    }
    Json(serde_json::json!({
        "dataserver": me.addr.as_str(),
        "name": me.name,
        "method": method.as_str(),
        "path": uri.to_string(),
        "headers": fields,
    }))
}

/// The body as it came, with its type, while it comes.
async fn echo(headers: HeaderMap, body: Body) -> impl IntoResponse {
    let mut answer = body.into_response();
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    answer
}

/// `n` bytes.
async fn bytes(Path(n): Path<u64>) -> impl IntoResponse {
    if n > MAX_BYTES {
        return (StatusCode::BAD_REQUEST, format!("at most {MAX_BYTES} bytes\n")).into_response();
    }
    let mut rest = n;
    let chunks = std::iter::from_fn(move || {
        let len = usize::try_from(rest).unwrap_or(usize::MAX).min(CHUNK.len());
        rest -= len as u64;
        CHUNK.get(..len).filter(|chunk| !chunk.is_empty()).map(Bytes::from_static)
    });
    let length = [(header::CONTENT_LENGTH, n.to_string())];
    (length, Body::new(Chunks(chunks))).into_response()
}

/// An answer after a while.
async fn delay(Path(ms): Path<u64>) -> impl IntoResponse {
    let delay = Duration::from_millis(ms).min(MAX_DELAY);
    tokio::time::sleep(delay).await;
    format!("after {} ms\n", delay.as_millis())
}

/// A body of chunks that cost nothing to make.
struct Chunks<I>(I);

impl<I: Iterator<Item = Bytes> + Unpin> http_body::Body for Chunks<I> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.next().map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}
