//! HTTP/1 connections: each carries one request at a time.
//!
//! Last in, first out: under less load the oldest are left alone until they have been idle for too long, and
//! are closed from this side before the dataserver would close them under a request.

use std::cell::RefCell;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::Instant;

use crate::alarm::Alarm;
use crate::http1::Client;
use crate::proxy::connect;

/// The idle ones to one dataserver.
#[derive(Default)]
pub(in crate::proxy) struct Connections {
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection to a dataserver.
pub(in crate::proxy) struct Connection {
    pub(in crate::proxy) client: Client<TcpStream>,
    /// For the head of each answer.
    pub(in crate::proxy) alarm: Alarm,
    /// Within this time what is sent on it has to be acknowledged, if there is a limit.
    unacknowledged: Option<Duration>,
}

impl Connections {
    /// The connection that was used last, if it can still be used and was idle for less than `limit`.
    pub(in crate::proxy) fn take_idle(&self, now: Instant, limit: Duration) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        // Without a budget nobody can tell whether one is open: they are left for others.
        while has_budget_remaining()
            && let Some(Idle { connection, since }) = idle.pop()
        {
            if now.saturating_duration_since(since) < limit && connection.client.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// Closes every connection that is idle.
    pub(in crate::proxy) fn close_all_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Closes what was idle for `limit`, and of the others the oldest of those that are too many.
    pub(super) fn close_idle(&self, now: Instant, limit: Duration, most: usize) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| {
            let client = &idle.connection.client;
            now.saturating_duration_since(idle.since) < limit && (client.is_open() || !has_budget_remaining())
        });
        let too_many = idle.len().saturating_sub(most);
        idle.drain(..too_many);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty()
    }

    /// Keeps a connection for another request, if it can carry one and not `most` are kept already.
    pub(super) fn give_back(&self, connection: Connection, most: usize) {
        let mut idle = self.idle.borrow_mut();
        if connection.client.is_free() && idle.len() < most {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}

impl Connection {
    pub(in crate::proxy) fn new(client: Client<TcpStream>, unacknowledged: Duration) -> Self {
        Self { client, alarm: Alarm::new(Instant::now()), unacknowledged: Some(unacknowledged) }
    }

    /// From now on what is sent has to be acknowledged within `limit`, or whenever there is room for it.
    pub(in crate::proxy) fn limit_unacknowledged(&mut self, limit: Option<Duration>) {
        if self.unacknowledged != limit {
            self.unacknowledged = limit;
            self.client.with_io(|stream| connect::limit_unacknowledged(stream, limit));
        }
    }
}
