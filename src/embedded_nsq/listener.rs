//! Accepting connections, a bounded number of them, until told to stop.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

/// Pause after a failed accept. Out of file descriptors, the next try would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for connections to end by themselves on shutdown.
const GRACE: Duration = Duration::from_secs(2);

/// Serves connections until `shutdown` loses its sender; then it listens no more, and returns those that are left.
pub(super) async fn accept<F, S>(
    listener: TcpListener,
    name: super::Listener,
    limit: usize,
    mut shutdown: watch::Receiver<()>,
    serve: F,
) -> Left
where
    F: Fn(TcpStream, SocketAddr) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut state = State::default();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(_) if connections.len() >= limit => state.set_full(true, name, limit),
                Ok((stream, remote)) => {
                    connections.spawn(serve(stream, remote));
                    state.recovered(name);
                }
                Err(reason) => {
                    state.failed(name, &reason);
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                report(ended, name);
                // Some way below the limit, so that a crowd at the door is not logged one by one.
                if connections.len() <= limit / 2 {
                    state.set_full(false, name, limit);
                }
            }
            _ = shutdown.changed() => break,
        }
    }
    Left(connections)
}

/// Connections that are served and were told to end.
#[must_use]
pub(super) struct Left(JoinSet<()>);

impl Left {
    /// Returns when the last one is closed.
    pub(super) async fn end(self) {
        let Self(mut connections) = self;
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(GRACE, all_ended).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// What has been logged, so that it is logged once.
#[derive(Debug, Default)]
struct State {
    full: bool,
    failing: bool,
}

impl State {
    fn set_full(&mut self, full: bool, listener: super::Listener, limit: usize) {
        if full == self.full {
            return;
        }
        self.full = full;
        if full {
            warn!(%listener, limit, "too many connections: closing new ones");
        } else {
            info!(%listener, "connections have room again");
        }
    }

    fn failed(&mut self, listener: super::Listener, reason: &std::io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(%listener, %reason, "cannot accept connections, trying on");
        }
    }

    fn recovered(&mut self, listener: super::Listener) {
        if std::mem::take(&mut self.failing) {
            info!(%listener, "accepting connections again");
        }
    }
}

fn report(ended: Result<(), JoinError>, listener: super::Listener) {
    if let Err(reason) = ended {
        error!(%listener, %reason, "a connection's task failed");
    }
}
