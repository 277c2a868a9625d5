//! A topic: gives every channel a copy of each message, and keeps messages while it has none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use tokio::time::Instant;

use super::channel::Channel;
use super::limits::Limits;
use super::message::{Delivery, Message};
use super::queue::MessageQueue;
use super::stats::TopicStats;

#[derive(Debug)]
pub(super) struct Topic {
    name: String,
    /// What was published before the first channel came.
    pub(super) backlog: MessageQueue,
    pub(super) channels: BTreeMap<String, Channel>,
    message_count: u64,
    message_bytes: u64,
}

impl Topic {
    pub(super) fn new(name: &str, limits: &Limits) -> Self {
        Self {
            name: name.to_owned(),
            backlog: MessageQueue::new(name.to_owned(), limits.queue_messages),
            channels: BTreeMap::new(),
            message_count: 0,
            message_bytes: 0,
        }
    }

    pub(super) fn publish(&mut self, message: &Arc<Message>, now: Instant) {
        self.message_count += 1;
        self.message_bytes += message.body.len() as u64;
        if self.channels.is_empty() {
            self.backlog.push(Delivery::first(message));
        }
        for channel in self.channels.values_mut() {
            channel.publish(message, now);
        }
    }

    /// The channel of that name, made where it is missing. The first one gets the backlog.
    pub(super) fn channel(&mut self, name: &str, limits: &Limits, now: Instant) -> &mut Channel {
        match self.channels.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let owner = format!("{}/{name}", self.name);
                let channel = entry.insert(Channel::new(owner, limits));
                while let Some(delivery) = self.backlog.pop() {
                    channel.publish(&delivery.message, now);
                }
                channel
            }
        }
    }

    /// `None` where `only_channel` is asked for and missing.
    pub(super) fn stats(&self, only_channel: Option<&str>, with_clients: bool) -> Option<TopicStats> {
        if only_channel.is_some_and(|name| !self.channels.contains_key(name)) {
            return None;
        }
        let channels = self
            .channels
            .iter()
            .filter(|(name, _)| only_channel.is_none_or(|only| only == name.as_str()))
            .map(|(name, channel)| channel.stats(name, with_clients))
            .collect();
        Some(TopicStats {
            topic_name: self.name.clone(),
            channels,
            depth: self.backlog.len(),
            message_count: self.message_count,
            message_bytes: self.message_bytes,
            dropped_count: self.backlog.dropped(),
            ..TopicStats::default()
        })
    }
}
