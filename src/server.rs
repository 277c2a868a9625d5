//! Connections from users: one listener per worker, the limits on connections, and a graceful end.
//!
//! HTTP/1 is [`http1`](crate::http1)'s, HTTP/2 hyper's. `axum::serve` is used for neither: it hides the limits.

mod door;
mod drain;
mod http;
mod http2;
mod io;
mod listen;
mod places;
mod proxy_protocol;
mod spread;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, SetOnce};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::addr::Networks;
use crate::config::{Limits, Timeouts};
use crate::message::{Request, Response};
use crate::metrics::Worker;
use crate::proxy::{Body, Client, Incoming};
use crate::tls::Identity;

pub use http::Http;
pub use listen::Listeners;
pub use places::Places;
pub use spread::Spread;

use door::Door;
use drain::Drain;
use spread::Placed;

/// The longest pause after the process ran out of file descriptors, or the like, before the next accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// For so long a connection that has begun may still come into being when the listeners close: a round trip.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// How a worker leaves its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// They are its own: with it they are gone.
    Close,
    /// Somebody else has them as well, and takes whoever waits there.
    HandOver,
}

/// How connections are served.
#[derive(Clone)]
pub struct Settings {
    /// `timeouts.request_head` (what comes before HTTP included), `timeouts.idle_body`,
    /// `timeouts.linger`, `timeouts.drain` and `timeouts.drain_idle` matter here.
    pub timeouts: Timeouts,
    /// `limits.head_bytes`, `limits.headers`, `limits.linger_bytes` and `limits.cancelled_streams` matter here.
    pub limits: Limits,
    /// The counts of the worker that serves; none for a listener that is not a worker's.
    pub counts: Option<Arc<Worker>>,
    /// Who may connect, and begins each connection with a PROXY protocol header; none where nobody does.
    pub proxy_protocol: Option<Networks>,
    /// What connections are encrypted with, after that header; none for plain HTTP.
    pub tls: Option<Identity>,
}

/// Accepts and serves until it is told to `leave`, then lets what is under way end within `timeouts.drain`.
/// `service_for` makes the service of a connection for its client; each connection takes one of the `places`; a `spread` of
/// several shares the connections with others. Must run where `spawn_local` works.
///
/// Returns how many connections were cut off because they did not end in time.
pub async fn serve<S>(
    listeners: Vec<TcpListener>,
    service_for: impl Fn(Client) -> S + 'static,
    http: &Rc<Http>,
    places: Arc<Semaphore>,
    mut spread: Spread,
    leave: &SetOnce<Leave>,
) -> usize
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + 'static,
{
    for listener in &listeners {
        listen::take_all(listener);
        // Connections inherit it, and a call for each is saved. It is only a matter of delay.
        let _ = SockRef::from(listener).set_tcp_nodelay(true);
    }
    let drain = Drain::default();
    let connections = TaskTracker::new();
    let service_for = Rc::new(service_for);
    let start = |((stream, peer, permit), counted): Placed| {
        let place = (permit, counted);
        let connection = http.clone().connection(stream, peer, service_for.clone(), drain.clone(), place);
        // In a box: where it is a task's own, each move of the task on its way in and out copies all of it.
        spawn_local(connections.track_future(Box::pin(connection)));
    };
    let mut door = Door::new(listeners, places.clone());
    let leave = accept_until(&mut door, &mut spread, leave.wait(), &start).await;
    let deadline = Instant::now() + http.drain_time();
    drain.begin();
    let mut waiting = match leave {
        Leave::HandOver => door.leave(),
        Leave::Close => {
            door.take_no_more();
            accept_until(&mut door, &mut spread, sleep(HANDSHAKE), &start).await;
            door.close()
        }
    };
    spread.close().into_iter().for_each(&start);
    let all_ended = async {
        while !waiting.is_empty()
            && let Ok(permit) = places.clone().acquire_owned().await
            && let Some((stream, peer)) = waiting.pop_front()
        {
            start(spread.here((stream, peer, permit)));
        }
        connections.close();
        connections.wait().await;
    };
    let _ = timeout_at(deadline, all_ended).await;
    connections.len() + waiting.len()
}

async fn accept_until<T>(
    door: &mut Door,
    spread: &mut Spread,
    until: impl Future<Output = T>,
    start: impl Fn(Placed),
) -> T {
    let mut failed = false;
    let mut until = pin!(until);
    loop {
        let accepted = tokio::select! {
            biased;
            end = until.as_mut() => return end,
            Some(placed) = spread.handed_on() => {
                start(placed);
                continue;
            }
            accepted = door.next() => accepted,
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
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
