//! Who is connected, and what one consumer of a channel may have in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Numbers the connections of one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// What is told about a client in `/stats`.
#[derive(Debug, Clone)]
pub(super) struct ClientInfo {
    pub(super) id: ClientId,
    pub(super) remote: SocketAddr,
    /// Seconds since 1970.
    pub(super) connected_at: i64,
    pub(super) client_id: String,
    pub(super) hostname: String,
    pub(super) user_agent: String,
    pub(super) sample_rate: u8,
}

/// A client that is subscribed to a channel, with its flow control.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) info: Arc<ClientInfo>,
    pub(super) msg_timeout: Duration,
    /// The client's RDY: how many messages it takes before it must answer one.
    pub(super) ready_count: u32,
    pub(super) in_flight: u32,
    pub(super) closing: bool,
    pub(super) messages: u64,
    pub(super) finishes: u64,
    pub(super) requeues: u64,
    /// Tells the connection that its flow control changed without its doing. Dropped with the
    /// channel, which tells the connection that its channel is gone.
    signal: watch::Sender<()>,
}

impl Consumer {
    /// The consumer, and the end of its signal that the connection watches.
    pub(super) fn new(info: Arc<ClientInfo>, msg_timeout: Duration) -> (Self, watch::Receiver<()>) {
        let (signal, watcher) = watch::channel(());
        let consumer = Self {
            info,
            msg_timeout,
            ready_count: 0,
            in_flight: 0,
            closing: false,
            messages: 0,
            finishes: 0,
            requeues: 0,
            signal,
        };
        (consumer, watcher)
    }

    /// How many more messages the consumer takes now.
    pub(super) fn room(&self) -> u32 {
        self.ready_count.saturating_sub(self.in_flight)
    }

    pub(super) fn release_one(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    pub(super) fn nudge(&self) {
        // The receiver ends with its connection; nobody is left to tell then.
        let _ = self.signal.send(());
    }
}
