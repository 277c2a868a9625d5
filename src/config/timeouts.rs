//! Section `timeouts`: how long things may take.

use std::time::Duration;

use serde::Serialize;

use super::reader::Reader;

const LEAST: Duration = Duration::from_millis(1);
const MOST: Duration = Duration::from_secs(24 * 3600);

/// How long things may take. Each from 1ms to 24h, if nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timeouts {
    /// How long the addresses of a dataserver's name are used before they are asked for again. Default 5s.
    pub resolved: Duration,
    /// A connection to a dataserver; then another one is tried. Default 1s.
    pub connect: Duration,
    /// How long the machine of a dataserver may give no sign of life on a connection: acknowledge nothing of what was
    /// sent, or say nothing when it is asked while nothing is under way. Then the connection is lost, and a GET goes to
    /// another dataserver. Not for what a body or a tunnel sends to a dataserver that reads slowly. Default 5s.
    pub unacknowledged: Duration,
    /// From when the gateway waits for a request to when its head is complete; it is thus also how long
    /// a client's connection may be idle. The first one includes the PROXY protocol header and the TLS handshake.
    /// Default 30s.
    pub request_head: Duration,
    /// From when a request was sent to when the head of its answer is complete; not for calls of gRPC to a dataserver
    /// that speaks HTTP/2. Default 30s.
    pub response_head: Duration,
    /// How long a dataserver has to say whether it wants the body of a request with `Expect: 100-continue`; then it
    /// is sent all the same. Default 1s.
    pub expect_continue: Duration,
    /// A body, either way, that does not move. Default 60s.
    pub idle_body: Duration,
    /// A tunnel (WebSocket), or a call of gRPC, in which nothing moves: before the head of its answer, or in a body
    /// either way. Default 1h.
    pub idle_tunnel: Duration,
    /// A connection to a dataserver without a request. Shorter than what common servers keep, so that
    /// it is the gateway that closes. Default 4s.
    pub pool_idle: Duration,
    /// After an answer that is the last of its connection: to read and drop what the user still sends, so
    /// that it sees the answer. Default 5s.
    pub linger: Duration,
    /// How long an HTTP/2 connection to a dataserver may be silent, with requests under way, before it is asked for a
    /// sign of life; that has `response_head` to come. gRPC servers close a connection that asks more often than
    /// every five minutes. Default 6m.
    pub upstream_ping: Duration,
    /// A dataserver that was told to stop says that it drains, and serves on for so long before it closes its listener:
    /// gateways hear it meanwhile. Default 1s.
    pub leave: Duration,
    /// A gateway that was told to stop is not ready, and serves on for so long before it closes its listeners: whoever
    /// asks `/readyz` sees it meanwhile. From 0s. Default 0s.
    pub lame_duck: Duration,
    /// From when a gateway closes its listeners to when whatever is still under way is cut off; of a dataserver, from
    /// the signal to stop. Default 30s.
    pub drain: Duration,
    /// For a user's connection on which nothing is under way to ask once more when the gateway closes its listeners, and
    /// be told that it was the last time. At most half of `drain` counts. Default 1s.
    pub drain_idle: Duration,
}

impl Timeouts {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let lame_duck = section.within("lame_duck", Duration::ZERO, Duration::ZERO, MOST);
        let mut duration =
            |key, default_secs| section.within(key, Duration::from_secs(default_secs), LEAST, MOST);
        let timeouts = Self {
            resolved: duration("resolved", 5),
            connect: duration("connect", 1),
            unacknowledged: duration("unacknowledged", 5),
            request_head: duration("request_head", 30),
            response_head: duration("response_head", 30),
            expect_continue: duration("expect_continue", 1),
            idle_body: duration("idle_body", 60),
            idle_tunnel: duration("idle_tunnel", 3600),
            pool_idle: duration("pool_idle", 4),
            linger: duration("linger", 5),
            upstream_ping: duration("upstream_ping", 360),
            leave: duration("leave", 1),
            lame_duck,
            drain: duration("drain", 30),
            drain_idle: duration("drain_idle", 1),
        };
        section.finish();
        timeouts
    }
}
