//! What `/stats` tells, in nsqd's shapes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::consumer::{ClientInfo, Consumer};

/// Everything but what the server adds (version, health, start time).
#[derive(Debug, Default, Serialize)]
pub(super) struct Stats {
    pub(super) topics: Vec<TopicStats>,
    /// Clients that have published; `null` where clients were not asked for or none has, as in nsqd.
    pub(super) producers: Option<Vec<ClientStats>>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct TopicStats {
    pub(super) topic_name: String,
    pub(super) channels: Vec<ChannelStats>,
    pub(super) depth: usize,
    /// Always 0: nothing goes to disk.
    pub(super) backend_depth: usize,
    pub(super) message_count: u64,
    pub(super) message_bytes: u64,
    /// Messages given up because the queue or the memory was full. Not in nsqd.
    pub(super) dropped_count: u64,
    pub(super) paused: bool,
    pub(super) e2e_processing_latency: Latency,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct ChannelStats {
    pub(super) channel_name: String,
    pub(super) depth: usize,
    /// Always 0: nothing goes to disk.
    pub(super) backend_depth: usize,
    pub(super) in_flight_count: usize,
    pub(super) deferred_count: usize,
    pub(super) message_count: u64,
    pub(super) requeue_count: u64,
    pub(super) timeout_count: u64,
    /// Messages given up because the queue or the memory was full. Not in nsqd.
    pub(super) dropped_count: u64,
    pub(super) client_count: usize,
    pub(super) clients: Option<Vec<ClientStats>>,
    pub(super) paused: bool,
    pub(super) e2e_processing_latency: Latency,
}

/// What nsqd answers when it keeps no latency percentiles, its default.
#[derive(Debug, Default, Serialize)]
pub(super) struct Latency {
    count: u64,
    percentiles: Option<()>,
}

/// A consumer or a producer. Compression and TLS are never on.
#[allow(clippy::struct_excessive_bools, reason = "nsqd's shape, not ours")]
#[derive(Debug, Default, Serialize)]
pub(super) struct ClientStats {
    client_id: String,
    hostname: String,
    version: &'static str,
    remote_address: String,
    /// nsqd's numbers: 0 at first, 3 subscribed, 4 closing.
    state: u8,
    ready_count: u32,
    in_flight_count: u32,
    message_count: u64,
    finish_count: u64,
    requeue_count: u64,
    connect_ts: i64,
    sample_rate: u8,
    deflate: bool,
    snappy: bool,
    user_agent: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub_counts: Vec<PubCount>,
    tls: bool,
    tls_cipher_suite: &'static str,
    tls_version: &'static str,
    tls_negotiated_protocol: &'static str,
    tls_negotiated_protocol_is_mutual: bool,
}

#[derive(Debug, Serialize)]
struct PubCount {
    topic: String,
    count: u64,
}

impl ClientStats {
    pub(super) fn consumer(consumer: &Consumer) -> Self {
        Self {
            state: if consumer.closing { 4 } else { 3 },
            ready_count: consumer.ready_count,
            in_flight_count: consumer.in_flight,
            message_count: consumer.messages,
            finish_count: consumer.finishes,
            requeue_count: consumer.requeues,
            ..Self::new(&consumer.info)
        }
    }

    /// With the counts of one topic only, where one is asked for.
    pub(super) fn producer(info: &ClientInfo, counts: &BTreeMap<String, u64>, topic: Option<&str>) -> Self {
        let pub_counts = counts
            .iter()
            .filter(|(name, _)| topic.is_none_or(|only| only == name.as_str()))
            .map(|(name, count)| PubCount { topic: name.clone(), count: *count })
            .collect();
        Self { pub_counts, ..Self::new(info) }
    }

    fn new(info: &ClientInfo) -> Self {
        Self {
            client_id: info.client_id.clone(),
            hostname: info.hostname.clone(),
            version: "V2",
            remote_address: info.remote.to_string(),
            connect_ts: info.connected_at,
            sample_rate: info.sample_rate,
            user_agent: info.user_agent.clone(),
            ..Self::default()
        }
    }

    fn label(&self) -> String {
        let port = self.remote_address.rsplit(':').next().unwrap_or_default();
        format!("[{} {}:{port} {}]", self.version, self.hostname, self.user_agent)
    }
}

impl Stats {
    /// The lines of the plain text form that follow its header.
    pub(super) fn text(&self) -> String {
        let mut lines = vec![String::new()];
        lines.push(if self.topics.is_empty() { "Topics: None" } else { "Topics:" }.to_owned());
        for topic in &self.topics {
            topic.lines(&mut lines);
        }
        let producers = self.producers.as_deref().unwrap_or_default();
        lines.push(String::new());
        lines.push(if producers.is_empty() { "Producers: None" } else { "Producers:" }.to_owned());
        for producer in producers {
            let total: u64 = producer.pub_counts.iter().map(|count| count.count).sum();
            lines.push(format!("   {} msgs: {total}", producer.label()));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl TopicStats {
    fn lines(&self, lines: &mut Vec<String>) {
        lines.push(format!(
            "   [{:<15}] depth: {:<5} be-depth: {:<5} msgs: {:<8} dropped: {}",
            self.topic_name, self.depth, self.backend_depth, self.message_count, self.dropped_count,
        ));
        for channel in &self.channels {
            lines.push(format!(
                "      [{:<25}] depth: {:<5} be-depth: {:<5} inflt: {:<4} def: {:<4} re-q: {:<5} \
                 timeout: {:<5} msgs: {:<8} dropped: {}",
                channel.channel_name,
                channel.depth,
                channel.backend_depth,
                channel.in_flight_count,
                channel.deferred_count,
                channel.requeue_count,
                channel.timeout_count,
                channel.message_count,
                channel.dropped_count,
            ));
            for client in channel.clients.iter().flatten() {
                lines.push(format!(
                    "        {} state: {} inflt: {:<4} rdy: {:<4} fin: {:<8} re-q: {:<8} msgs: {}",
                    client.label(),
                    client.state,
                    client.in_flight_count,
                    client.ready_count,
                    client.finish_count,
                    client.requeue_count,
                    client.message_count,
                ));
            }
        }
    }
}
