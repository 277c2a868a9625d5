//! An nsqd and an nsqlookupd in this process, in memory, for deployments without a broker.
//!
//! It speaks the real protocol, so every NSQ client can publish to it and consume from it:
//! TCP V2 (nsqd's :4150), nsqd's HTTP API (:4151) and nsqlookupd's HTTP API (:4161). It keeps
//! nsqd 1.3.0's behaviour with three differences on purpose: nothing goes to disk, everything is
//! bounded (see [`Limits`]), and where nsqd would spill to disk the oldest message is dropped.
//! It holds heartbeats, of which the newest is worth the most; it is no general message queue.
//!
//! In reading order:
//!
//! - `names`, `message`, `queue`, `consumer`: what things are
//! - `channel`, `topic`: the state and its rules, pure
//! - `broker`, `subscription`: the state behind a lock and a clock, and a connection's place in it
//! - `protocol`, `identify`: the wire format, pure
//! - `session`, `vitals`, `client`: one TCP connection
//! - `http`, `lookup`, `stats`: the HTTP APIs
//! - `listener`, `budget`, `limits`: bounds and admission

mod broker;
mod budget;
mod channel;
mod client;
mod consumer;
mod http;
mod identify;
mod limits;
mod listener;
mod lookup;
mod message;
mod names;
mod protocol;
mod queue;
mod session;
mod stats;
mod subscription;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod topic;
mod vitals;

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::{fmt, io};

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use self::broker::Broker;
use self::http::Node;
pub use self::limits::Limits;
use self::listener::accept;

/// Where the embedded NSQ listens. Port 0 lets the system choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// nsqd's TCP protocol; 4150 by custom.
    pub tcp: SocketAddr,
    /// nsqd's HTTP API; 4151 by custom.
    pub http: SocketAddr,
    /// nsqlookupd's HTTP API; 4161 by custom.
    pub lookup: SocketAddr,
}

/// One of the three listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// nsqd's TCP protocol.
    Tcp,
    /// nsqd's HTTP API.
    Http,
    /// nsqlookupd's HTTP API.
    Lookup,
}

/// An address that could not be listened on.
#[derive(Debug, Error)]
#[error("embedded NSQ cannot listen for {listener} on {addr}")]
pub struct BindError {
    /// What it was for.
    pub listener: Listener,
    /// The address that was asked for.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A bound, not yet running, in-memory NSQ.
#[derive(Debug)]
pub struct EmbeddedNsq {
    tcp: TcpListener,
    http: TcpListener,
    lookup: TcpListener,
    addresses: Listen,
    limits: Limits,
}

impl EmbeddedNsq {
    /// Binds all three listeners. Clients can connect from here on, and are served by
    /// [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// The first address that cannot be listened on; then none is.
    pub async fn bind(listen: Listen, limits: Limits) -> Result<Self, BindError> {
        let tcp = bind_one(Listener::Tcp, listen.tcp).await?;
        let http = bind_one(Listener::Http, listen.http).await?;
        let lookup = bind_one(Listener::Lookup, listen.lookup).await?;
        Ok(Self::on([tcp, http, lookup], limits))
    }

    /// As [`bind`](Self::bind), with sockets that listen already: for nsqd's TCP protocol, its HTTP API, and
    /// nsqlookupd's.
    ///
    /// # Errors
    /// When the kernel does not take one.
    pub fn adopt(sockets: [std::net::TcpListener; 3], limits: Limits) -> io::Result<Self> {
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        let bound = |socket| {
            let socket = TcpListener::from_std(socket)?;
            io::Result::Ok((socket.local_addr()?, socket))
        };
        let [tcp, http, lookup] = sockets.map(bound);
        Ok(Self::on([tcp?, http?, lookup?], limits))
    }

    fn on([tcp, http, lookup]: [(SocketAddr, TcpListener); 3], limits: Limits) -> Self {
        let addresses = Listen { tcp: tcp.0, http: http.0, lookup: lookup.0 };
        info!(
            tcp = %addresses.tcp, http = %addresses.http, lookup = %addresses.lookup,
            "embedded NSQ listens"
        );
        Self { tcp: tcp.1, http: http.1, lookup: lookup.1, addresses, limits }
    }

    /// The sockets that it listens with: for nsqd's TCP protocol, its HTTP API, and nsqlookupd's.
    pub fn sockets(&self) -> [BorrowedFd<'_>; 3] {
        [self.tcp.as_fd(), self.http.as_fd(), self.lookup.as_fd()]
    }

    /// The addresses listened on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> Listen {
        self.addresses
    }

    /// Serves until `shutdown` resolves. Then it listens no more, and what it returns resolves when every connection is
    /// closed, some two seconds later at most. Messages that nobody has taken are lost then.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> impl Future<Output = ()> + Send {
        let limit = self.limits.connections;
        let broker = Broker::new(self.limits);
        let node = Arc::new(Node::new(broker.clone(), self.addresses));
        let (stop, stopped) = watch::channel(());

        let tcp = accept(self.tcp, Listener::Tcp, limit, stopped.clone(), |stream, remote| {
            client::serve(stream, remote, broker.clone(), stopped.clone())
        });
        let http = accept(self.http, Listener::Http, limit, stopped.clone(), |stream, _| {
            http::serve(stream, http::routes(), Arc::clone(&node), stopped.clone())
        });
        let lookup = accept(self.lookup, Listener::Lookup, limit, stopped.clone(), |stream, _| {
            http::serve(stream, lookup::routes(), Arc::clone(&node), stopped.clone())
        });
        let until_shutdown = async {
            tokio::select! {
                () = shutdown => {}
                () = broker.run_clock() => {}
            }
            drop(stop);
        };
        let (tcp, http, lookup, ()) = tokio::join!(tcp, http, lookup, until_shutdown);
        async {
            tokio::join!(tcp.end(), http.end(), lookup.end());
        }
    }
}

async fn bind_one(listener: Listener, addr: SocketAddr) -> Result<(SocketAddr, TcpListener), BindError> {
    let failed = |source| BindError { listener, addr, source };
    let socket = TcpListener::bind(addr).await.map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((bound, socket))
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "NSQ's TCP protocol",
            Self::Http => "nsqd's HTTP API",
            Self::Lookup => "nsqlookupd's HTTP API",
        })
    }
}
