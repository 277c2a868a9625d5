//! Section `limits`: how much of anything there may be.

use serde::Serialize;

use super::reader::Reader;

/// How much of anything there may be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Bytes of a request's or an answer's head. Default 65536, from 8192 to 1048576.
    pub head_bytes: usize,
    /// Fields in a request's or an answer's head. Default 100, from 10 to 1000.
    pub headers: usize,
    /// Bytes that a user may send after an answer that is the last of its connection, before it is cut off.
    /// Default 1048576, at most 1073741824.
    pub linger_bytes: usize,
    /// Bytes of a body of HTTP/1 that are read at once, and that one whose reader is slow holds. Default 262144, from
    /// 16384 to 4194304.
    pub body_buffer: usize,
    /// Idle connections to one dataserver that each worker keeps. Default 1024, at most 100000.
    pub pool: usize,
    /// Streams of one HTTP/2 connection that its user may cancel in ten seconds before they are answered; then the
    /// connection is closed. Default 500, at most 1000000.
    pub cancelled_streams: usize,
    /// Connections from users at once; over it, new ones wait in the kernel's queue. Default 10000.
    pub connections: usize,
    /// Requests under way at once; over it, 503 at once. A worker that has less than its even share takes one
    /// all the same: it does not ask the others for each request. Default 10000.
    pub in_flight: usize,
    /// HTTP/2 connections of one worker to one dataserver. Another is opened only when those there have no free
    /// stream; over it, requests go elsewhere. Default 64, at most 10000.
    pub h2c_connections: usize,
    /// Browsers that watch the page at once; over it, 503. Default 64, at most 1000.
    pub viewers: usize,
}

impl Limits {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let limits = Self {
            head_bytes: section.within("head_bytes", 65_536, 8_192, 1_048_576),
            headers: section.within("headers", 100, 10, 1_000),
            linger_bytes: section.within("linger_bytes", 1_048_576, 0, 1 << 30),
            body_buffer: section.within("body_buffer", 262_144, 16_384, 4_194_304),
            pool: section.within("pool", 1024, 0, 100_000),
            cancelled_streams: section.within("cancelled_streams", 500, 1, 1_000_000),
            connections: section.within("connections", 10_000, 1, 10_000_000),
            in_flight: section.within("in_flight", 10_000, 1, 10_000_000),
            h2c_connections: section.within("h2c_connections", 64, 1, 10_000),
            viewers: section.within("viewers", 64, 0, 1_000),
        };
        section.finish();
        limits
    }
}
