//! New connections to dataservers.

mod http2;

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Worker;
use super::pool::{Http1Connection, Upstream};
use crate::addr::is_dialable;
use crate::http1::{Client, Limits};
use crate::registry::Failure;

pub(super) use http2::{Driver, http2};

/// A connection for one HTTP/1.1 request after the other.
pub(super) async fn http1(worker: &Worker, upstream: &Upstream) -> Result<Http1Connection, Failure> {
    let within = worker.settings.timeouts.connect;
    let stream = timeout(within, dial(worker, upstream)).await.map_err(|_| Failure::ConnectTimeout)??;
    let limits = &worker.settings.limits;
    let limits = Limits { bytes: limits.head_bytes, fields: limits.headers };
    Ok(Http1Connection::new(Client::new(stream, limits, worker.scratch.clone())))
}

async fn dial(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let stream = dial_any(worker, upstream).await?;
    let _ = stream.set_nodelay(true); // only a matter of delay
    Ok(stream)
}

async fn dial_any(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    if let Some(target) = upstream.addr.socket_addr() {
        return TcpStream::connect(target).await.map_err(|_| Failure::Connect);
    }
    let resolved = tokio::net::lookup_host(upstream.addr.as_str()).await.map_err(|_| Failure::Resolve)?;
    // A name is no way around what is refused of an address.
    let may_dial = |target: &SocketAddr| is_dialable(target.ip()) && !worker.settings.own.contains(*target);
    let mut failure = Failure::Resolve;
    for target in resolved.filter(may_dial) {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok(stream),
            Err(_) => failure = Failure::Connect,
        }
    }
    Err(failure)
}
