//! The metrics that there are.

/// Every metric of the gateway: its name, whether it is a counter, and its help.
pub(super) const DESCRIPTIONS: &[(&str, Kind, &str)] = &[
    (HEARTBEATS, Kind::Counter, "Heartbeat messages read, by what became of them."),
    (LAST_HEARTBEAT, Kind::Gauge, "When the last heartbeat that was taken came, in seconds since 1970."),
    (DATASERVERS, Kind::Gauge, "Dataservers in the set, by state."),
    (JOINS, Kind::Counter, "Dataservers that joined the set."),
    (EVICTIONS, Kind::Counter, "Dataservers that were removed from the set, by reason."),
    (
        FROZEN,
        Kind::Gauge,
        "Whether nobody is evicted for silence because the heartbeat path is broken (0 or 1).",
    ),
    (PROBES, Kind::Counter, "Probes of dataservers that were doubted or could not be heard, by result."),
    (EJECTIONS, Kind::Counter, "Dataservers that got no requests for a while because they failed too many."),
    (
        PAUSED,
        Kind::Counter,
        "Seconds that the gateway itself stood still, and that counted as nobody's silence.",
    ),
    (SNAPSHOT_WRITES, Kind::Counter, "Writes of the live set to its file, by result."),
    (NSQD_CONNECTED, Kind::Gauge, "Whether heartbeats are being read from this nsqd (0 or 1)."),
    (NSQD_OFFSET, Kind::Gauge, "How far the clock of this nsqd is ahead of the gateway's, in seconds."),
    (
        CHANNEL_SHARED,
        Kind::Gauge,
        "Whether others read the channel that this gateway reads from this nsqd (0 or 1).",
    ),
    (REQUESTS, Kind::Counter, "Requests answered, by method and status."),
    (DURATION, Kind::Histogram, "Time from a request's head to the end of its answer."),
    (IN_FLIGHT, Kind::Gauge, "Requests whose answer has not ended."),
    (UPSTREAM_REQUESTS, Kind::Counter, "Answers of a dataserver, by class of status."),
    (UPSTREAM_ERRORS, Kind::Counter, "Requests that a dataserver did not answer, or not whole, by kind."),
    (
        RETRIES,
        Kind::Counter,
        "Requests sent to another dataserver because the first could not take them, by reason.",
    ),
    (CONNECTIONS, Kind::Gauge, "Open connections from users, by protocol."),
    (WORKER_CONNECTIONS, Kind::Gauge, "Open connections from users, by worker."),
    (
        CONNECTIONS_REFUSED,
        Kind::Counter,
        "Connections from users that were ended before any HTTP, or for what was said in HTTP/2, by reason.",
    ),
    (CONFIG_RELOADS, Kind::Counter, "Times that the config was read again, by result."),
    (
        CONFIG_GOOD,
        Kind::Gauge,
        "Whether the config could be taken when it was read last (0 or 1); if not, the last good one holds.",
    ),
    (TLS_RELOADS, Kind::Counter, "Changes of the certificate's files that were seen, by result."),
    (
        TLS_EXPIRES,
        Kind::Gauge,
        "When the certificate of gateway.tls, or one between it and a root, is no longer good, in seconds since 1970.",
    ),
    (LOG_LINES_LOST, Kind::Counter, "Log lines that could not be written, or not in time, by log."),
];

pub(super) const HEARTBEATS: &str = "gateway_heartbeats_total";
pub(super) const LAST_HEARTBEAT: &str = "gateway_last_heartbeat_timestamp_seconds";
pub(super) const DATASERVERS: &str = "gateway_dataservers";
pub(super) const JOINS: &str = "gateway_dataserver_joins_total";
pub(super) const EVICTIONS: &str = "gateway_evictions_total";
pub(super) const FROZEN: &str = "gateway_registry_frozen";
pub(super) const PROBES: &str = "gateway_probes_total";
pub(super) const EJECTIONS: &str = "gateway_ejections_total";
pub(super) const PAUSED: &str = "gateway_paused_seconds_total";
pub(super) const SNAPSHOT_WRITES: &str = "gateway_snapshot_writes_total";
pub(super) const NSQD_CONNECTED: &str = "gateway_nsqd_connected";
pub(super) const NSQD_OFFSET: &str = "gateway_nsqd_clock_offset_seconds";
pub(super) const CHANNEL_SHARED: &str = "gateway_channel_shared";
pub(super) const REQUESTS: &str = "gateway_requests_total";
pub(super) const DURATION: &str = "gateway_request_duration_seconds";
pub(super) const IN_FLIGHT: &str = "gateway_requests_in_flight";
pub(super) const UPSTREAM_REQUESTS: &str = "gateway_upstream_requests_total";
pub(super) const UPSTREAM_ERRORS: &str = "gateway_upstream_errors_total";
pub(super) const RETRIES: &str = "gateway_retries_total";
pub(super) const CONNECTIONS: &str = "gateway_connections";
pub(super) const WORKER_CONNECTIONS: &str = "gateway_worker_connections";
pub(super) const CONNECTIONS_REFUSED: &str = "gateway_connections_refused_total";
pub(super) const CONFIG_RELOADS: &str = "gateway_config_reloads_total";
pub(super) const CONFIG_GOOD: &str = "gateway_config_last_reload_successful";
pub(super) const TLS_RELOADS: &str = "gateway_tls_reloads_total";
pub(super) const TLS_EXPIRES: &str = "gateway_tls_certificate_expires_timestamp_seconds";
pub(super) const LOG_LINES_LOST: &str = "gateway_log_lines_lost_total";

/// How a metric behaves.
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}
