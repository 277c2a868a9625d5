//! New connections to dataservers.

mod http2;
mod life;

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::Worker;
use super::pool::{Http1Connection, Upstream};
use crate::http1::Client;
use crate::registry::Failure;
use crate::resolved;

pub(super) use http2::{Driver, LocalExecutor, SEND_BUFFER, Sending, Terms as Http2Terms, http2};
pub(super) use life::{limit_unacknowledged, may_have_no_room};

/// A connection for one HTTP/1.1 request after the other.
pub(super) async fn http1(worker: &Worker, upstream: &Upstream) -> Result<Http1Connection, Failure> {
    let settings = worker.settings();
    let within = settings.timeouts.connect;
    let stream = timeout(within, dial(worker, upstream)).await.map_err(|_| Failure::ConnectTimeout)??;
    Ok(Http1Connection::new(Client::new(stream, worker.scratch.clone()), settings.timeouts.unacknowledged))
}

async fn dial(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let stream = dial_any(worker, upstream).await?;
    let _ = stream.set_nodelay(true); // only a matter of delay
    life::expect_signs(&stream, worker.settings().timeouts.unacknowledged);
    Ok(stream)
}

async fn dial_any(worker: &Worker, upstream: &Upstream) -> Result<TcpStream, Failure> {
    let may_dial = |target: &SocketAddr| worker.fixed.dialable.permits(*target);
    if let Some(target) = upstream.addr.socket_addr() {
        if !may_dial(&target) {
            return Err(Failure::Resolve);
        }
        return resolved::connect_to(target).await.map_err(|error| Failure::to_connect(&error));
    }
    let (fresh, within) = {
        let timeouts = &worker.settings().timeouts;
        (timeouts.resolved, timeouts.connect)
    };
    let deadline = Instant::now() + within;
    let found = upstream.resolved.targets(&upstream.addr, fresh, within / 2).await;
    let found = found.map_err(|error| match Failure::to_connect(&error) {
        Failure::NoSocket => Failure::NoSocket,
        _ => Failure::Resolve,
    })?;
    let targets: Vec<_> = found.iter().copied().filter(may_dial).collect();
    if targets.is_empty() {
        return Err(Failure::Resolve);
    }
    resolved::connect(&targets, deadline).await.map_err(|error| Failure::to_connect(&error))
}
