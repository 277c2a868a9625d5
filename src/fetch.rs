//! One small HTTP GET, bounded in time and size: what a control loop asks another service.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Longest body that is read, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Not within the time allowed.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection ended, or what came is not HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The path or the endpoint cannot stand in a request.
    #[error("{0}")]
    Request(#[from] http::Error),
    /// The body broke off or is longer than [`MAX_BODY`].
    #[error("the answer cannot be read, or is longer than {MAX_BODY} bytes: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Asks `endpoint` (`host:port`) for `path`, on a connection of its own, and reads the whole answer.
pub async fn get(endpoint: &str, path: &str, within: Duration) -> Result<Response<Bytes>, FetchError> {
    tokio::time::timeout(within, exchange(endpoint, path)).await.unwrap_or(Err(FetchError::Timeout(within)))
}

async fn exchange(endpoint: &str, path: &str) -> Result<Response<Bytes>, FetchError> {
    let stream = TcpStream::connect(endpoint).await.map_err(FetchError::Connect)?;
    get_on(stream, endpoint, path).await
}

/// As [`get`], on a connection that there is, and for as long as it takes.
pub async fn get_on(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    endpoint: &str,
    path: &str,
) -> Result<Response<Bytes>, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path)
        .header(header::HOST, endpoint)
        .header(header::USER_AGENT, concat!("nsq-gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(FetchError::Body)?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
