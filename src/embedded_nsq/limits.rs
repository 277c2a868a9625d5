//! Every bound of the embedded NSQ in one place.

use std::time::Duration;

/// What the embedded NSQ allows. The defaults are nsqd's where nsqd has the limit, and finite
/// where nsqd has none: an in-process broker must never cost the process its memory.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections per listener (TCP, HTTP, lookup each). One more is accepted and closed
    /// at once. Default 1,000.
    pub connections: usize,
    /// Bytes in one message body. Default 1 MiB.
    pub message_bytes: usize,
    /// Bytes in one command body or HTTP body (many messages at once). Default 5 MiB.
    pub body_bytes: usize,
    /// Messages in one MPUB or `/mpub`. Default 10,000: more would push each other out of the queue.
    pub batch_messages: usize,
    /// Bytes in one command line, without its newline. Default 16 KiB.
    pub command_line_bytes: usize,
    /// Bytes of commands and HTTP bodies that have arrived in part, over all connections. A
    /// connection that would pass it is refused. Default 64 MiB.
    pub input_bytes: usize,
    /// Messages that wait in one topic or channel, and as many again deferred in one channel.
    /// The oldest goes first. Default 10,000.
    pub queue_messages: usize,
    /// Bytes of messages held in all, with their bookkeeping. The oldest message of the broker
    /// goes first. Default 64 MiB.
    pub held_bytes: usize,
    /// Topics in all. Default 1,000.
    pub topics: usize,
    /// Channels in all, over every topic. Default 1,000.
    pub channels: usize,
    /// The highest RDY count. Default 2,500.
    pub max_rdy_count: u32,
    /// Time between heartbeats to a client that asks for none in particular; a client that stays
    /// silent for two of them is disconnected. Default 30 s.
    pub heartbeat_interval: Duration,
    /// The longest heartbeat interval a client may ask for. Default 60 s.
    pub max_heartbeat_interval: Duration,
    /// Time a consumer has to answer a message before it is delivered again. Default 60 s.
    pub msg_timeout: Duration,
    /// The longest message timeout a client may ask for, and the longest that TOUCH may stretch
    /// one delivery to. Default 15 min.
    pub max_msg_timeout: Duration,
    /// The longest delay of REQ (longer ones are cut) and DPUB (longer ones are refused).
    /// Default 1 h.
    pub max_delay: Duration,
    /// Bytes of messages that wait in a connection's write buffer before no more are taken from
    /// the channel. Default 16 KiB.
    pub output_buffer_bytes: usize,
    /// The largest output buffer a client may ask for, in bytes. Default 64 KiB.
    pub max_output_buffer_bytes: usize,
    /// The output buffer timeout that is told to clients. The embedded NSQ never holds output
    /// back, so it keeps every such promise. Default 250 ms.
    pub output_buffer_timeout: Duration,
    /// The shortest output buffer timeout a client may ask for. Default 25 ms.
    pub min_output_buffer_timeout: Duration,
    /// The longest output buffer timeout a client may ask for. Default 30 s.
    pub max_output_buffer_timeout: Duration,
    /// Time in which a begun command must arrive in full, and blocked output must move, on a
    /// connection without heartbeats; with them, nsqd's rules (two intervals, one interval)
    /// apply. Default 60 s.
    pub stall_timeout: Duration,
    /// Time for an HTTP request's head, for its body, and for a connection to stay idle between
    /// two requests. Default 30 s.
    pub http_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;

        Self {
            connections: 1_000,
            message_bytes: MIB,
            body_bytes: 5 * MIB,
            batch_messages: 10_000,
            command_line_bytes: 16 * KIB,
            input_bytes: 64 * MIB,
            queue_messages: 10_000,
            held_bytes: 64 * MIB,
            topics: 1_000,
            channels: 1_000,
            max_rdy_count: 2_500,
            heartbeat_interval: Duration::from_secs(30),
            max_heartbeat_interval: Duration::from_secs(60),
            msg_timeout: Duration::from_secs(60),
            max_msg_timeout: Duration::from_secs(15 * 60),
            max_delay: Duration::from_secs(60 * 60),
            output_buffer_bytes: 16 * KIB,
            max_output_buffer_bytes: 64 * KIB,
            output_buffer_timeout: Duration::from_millis(250),
            min_output_buffer_timeout: Duration::from_millis(25),
            max_output_buffer_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            http_timeout: Duration::from_secs(30),
        }
    }
}

/// A duration in whole milliseconds, as NSQ writes durations on the wire.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
