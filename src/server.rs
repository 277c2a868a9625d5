//! Connections from users: one listener per worker, the limits on connections, and a graceful end.
//!
//! HTTP/1 is [`http1`](crate::http1)'s, HTTP/2 hyper's. `axum::serve` is used for neither: it hides the limits.

mod drain;
mod http;
mod http2;
mod io;
mod listen;
mod proxy_protocol;
mod spread;

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::addr::Networks;
use crate::config::{Limits, Timeouts};
use crate::metrics::Worker;
use crate::proxy::{Body, Client, Incoming};
use crate::tls::Identity;

pub use listen::bind;
pub use spread::Spread;

use drain::Drain;
use http::Http;
use spread::{Accepted, Placed};

/// The longest pause after the process ran out of file descriptors, or the like, before the next accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How connections are served.
#[derive(Clone)]
pub struct Settings {
    /// `timeouts.request_head` (what comes before HTTP included), `timeouts.idle_body`,
    /// `timeouts.linger` and `timeouts.drain` matter here.
    pub timeouts: Timeouts,
    /// `limits.head_bytes`, `limits.headers`, `limits.linger_bytes` and `limits.cancelled_streams` matter here.
    pub limits: Limits,
    /// One permit a connection, shared by all workers.
    pub connections: Arc<Semaphore>,
    /// The counts of the worker that serves; none for a listener that is not a worker's.
    pub counts: Option<Arc<Worker>>,
    /// Who may connect, and begins each connection with a PROXY protocol header; none where nobody does.
    pub proxy_protocol: Option<Networks>,
    /// What connections are encrypted with, after that header; none for plain HTTP.
    pub tls: Option<Identity>,
}

/// Accepts and serves until `stop`, then lets what is under way end within `timeouts.drain`. `service_for` makes
/// the service of a connection for its client; a `spread` of several shares the connections with others. Must run where `spawn_local` works.
///
/// Returns how many connections were cut off because they did not end in time.
pub async fn serve<S>(
    listener: TcpListener,
    service_for: impl Fn(Client) -> S + 'static,
    settings: Settings,
    mut spread: Spread,
    stop: CancellationToken,
) -> usize
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
{
    let drain = Drain::default();
    let connections = TaskTracker::new();
    let (places, drain_time) = (settings.connections.clone(), settings.timeouts.drain);
    let http = Rc::new(Http::new(settings));
    let service_for = Rc::new(service_for);
    let start = |((stream, peer, permit), counted): Placed| {
        let place = (permit, counted);
        let connection = http.clone().connection(stream, peer, service_for.clone(), drain.clone(), place);
        spawn_local(connections.track_future(connection));
    };
    accept_until(&listener, &places, &mut spread, &stop, &start).await;
    // What the kernel has taken in already is served: closing the listener would reset it.
    let queued = accept_queued(listener, &places);
    spread.close().into_iter().for_each(&start);
    queued.into_iter().map(|accepted| spread.here(accepted)).for_each(&start);
    drain.begin();
    connections.close();
    let _ = timeout(drain_time, connections.wait()).await;
    connections.len()
}

async fn accept_until(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    spread: &mut Spread,
    stop: &CancellationToken,
    start: impl Fn(Placed),
) {
    let mut failed = false;
    let mut stopped = pin!(stop.cancelled());
    // Kept while others hand on: it may hold a connection that waits for its place.
    let mut accepting = pin!(accept(listener, places));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped.as_mut() => return,
            Some(placed) = spread.handed_on() => {
                start(placed);
                continue;
            }
            accepted = accepting.as_mut() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                failed = false;
                if let Some(placed) = spread.place(accepted) {
                    start(placed);
                }
            }
            Err(error) => {
                if !failed {
                    tracing::warn!(%error, "connections cannot be accepted for the moment");
                }
                failed = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        accepting.set(accept(listener, places));
    }
}

/// A connection, and a place for it. One that is over the limit waits here, accepted but not read; the
/// others wait in the kernel's queue.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let (stream, peer) = listener.accept().await?;
    let permit = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((stream, peer, permit))
}

/// What the kernel has taken in and nobody has accepted yet, as far as there are places. Asked of the kernel
/// itself: tokio knows only what its last look at the listener told. Closes the listener.
fn accept_queued(listener: TcpListener, places: &Arc<Semaphore>) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    let Ok(listener) = listener.into_std() else { return accepted };
    while let Ok((stream, peer)) = listener.accept() {
        let _ = stream.set_nonblocking(true); // or `from_std` refuses it, and it is closed
        let (Ok(stream), Ok(permit)) = (TcpStream::from_std(stream), places.clone().try_acquire_owned())
        else {
            break;
        };
        accepted.push((stream, peer, permit));
    }
    accepted
}
