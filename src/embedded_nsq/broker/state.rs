//! What the broker's lock guards: the topics, who has published, and the rules that span topics.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::budget::{Budget, Charge};
use super::super::channel::Channel;
use super::super::consumer::{ClientId, ClientInfo};
use super::super::limits::Limits;
use super::super::message::{Message, MessageId, wall_clock_nanos};
use super::super::names::{Name, is_ephemeral};
use super::super::stats::ClientStats;
use super::super::topic::Topic;
use super::Refused;

#[derive(Debug)]
pub(super) struct State {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) producers: BTreeMap<ClientId, Producer>,
    last_message: u64,
    /// What the clock sleeps for.
    pub(super) wake_at: Option<Instant>,
    evicting: bool,
}

/// A client that has published, and how much to which topic.
#[derive(Debug)]
pub(super) struct Producer {
    info: Arc<ClientInfo>,
    counts: BTreeMap<String, u64>,
}

/// Bytes charged for a message and for each channel's copy besides the body: what the maps and
/// queues that point to it take, rounded up.
const BOOKKEEPING_BYTES: usize = 192;
/// Topics counted for one producer in `/stats`.
const PRODUCER_TOPICS: usize = 64;

impl State {
    pub(super) fn new() -> Self {
        Self {
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            // Counted from the start time, so that a restarted process issues new IDs.
            last_message: u64::try_from(wall_clock_nanos()).unwrap_or_default(),
            wake_at: None,
            evicting: false,
        }
    }

    pub(super) fn topic(&mut self, name: Name<'_>, limits: &Limits) -> Result<&mut Topic, Refused> {
        let room = self.topics.len() < limits.topics;
        match self.topics.entry(name.as_str().to_owned()) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(_) if !room => Err(Refused::TooManyTopics),
            Entry::Vacant(entry) => {
                debug!(topic = %name, "topic created");
                Ok(entry.insert(Topic::new(name.as_str(), limits)))
            }
        }
    }

    pub(super) fn channel(
        &mut self,
        topic: Name<'_>,
        channel: Name<'_>,
        now: Instant,
        limits: &Limits,
    ) -> Result<&mut Channel, Refused> {
        let total: usize = self.topics.values().map(|topic| topic.channels.len()).sum();
        let topic = self.topic(topic, limits)?;
        if total >= limits.channels && !topic.channels.contains_key(channel.as_str()) {
            return Err(Refused::TooManyChannels);
        }
        Ok(topic.channel(channel.as_str(), limits, now))
    }

    pub(super) fn existing_channel(&mut self, topic: &str, channel: &str) -> Option<&mut Channel> {
        self.topics.get_mut(topic)?.channels.get_mut(channel)
    }

    /// An ephemeral topic goes with its last channel.
    pub(super) fn remove_channel(&mut self, topic: &str, channel: &str) -> Option<()> {
        let owner = self.topics.get_mut(topic)?;
        owner.channels.remove(channel)?;
        if owner.channels.is_empty() && is_ephemeral(topic) {
            self.topics.remove(topic);
        }
        Some(())
    }

    pub(super) fn publish(
        &mut self,
        topic: Name<'_>,
        body: Bytes,
        delay: Duration,
        now: Instant,
        held: &Arc<Budget>,
        limits: &Limits,
    ) -> Result<(), Refused> {
        // The common case allocates no name; a missing topic is made first.
        let copies = match self.topics.get(topic.as_str()) {
            Some(topic) => topic.channels.len(),
            None => self.topic(topic, limits)?.channels.len(),
        };
        let charge = self.charge(body.len() + BOOKKEEPING_BYTES * (1 + copies), held)?;
        self.last_message += 1;
        let message = Arc::new(Message {
            id: MessageId(self.last_message),
            timestamp_nanos: wall_clock_nanos(),
            body,
            delay,
            _charge: charge,
        });
        if let Some(topic) = self.topics.get_mut(topic.as_str()) {
            topic.publish(&message, now);
        }
        Ok(())
    }

    /// Finds room for a message by giving up the oldest ones of the whole broker.
    fn charge(&mut self, bytes: usize, held: &Arc<Budget>) -> Result<Charge, Refused> {
        if self.evicting && held.used_bytes() <= held.limit_bytes() / 2 {
            self.evicting = false;
            info!("message memory has room again");
        }
        loop {
            if let Some(charge) = held.charge(bytes) {
                return Ok(charge);
            }
            if !self.evicting {
                self.evicting = true;
                warn!(limit_bytes = held.limit_bytes(), "message memory full: dropping the oldest messages");
            }
            if bytes > held.limit_bytes() || !(self.evict_oldest_ready() || self.evict_next_deferred()) {
                return Err(Refused::MemoryFull);
            }
        }
    }

    /// Gives up the oldest message that waits anywhere, in every queue where it is next.
    fn evict_oldest_ready(&mut self) -> bool {
        let oldest = self.topics.values().flat_map(|topic| {
            let channels = topic.channels.values().filter_map(Channel::oldest_ready);
            topic.backlog.oldest().into_iter().chain(channels)
        });
        let Some(oldest) = oldest.min() else { return false };
        for topic in self.topics.values_mut() {
            if topic.backlog.oldest() == Some(oldest) {
                topic.backlog.drop_oldest();
            }
            for channel in topic.channels.values_mut() {
                if channel.oldest_ready() == Some(oldest) {
                    channel.drop_oldest_ready();
                }
            }
        }
        true
    }

    /// Gives up the deferred message that is due first.
    fn evict_next_deferred(&mut self) -> bool {
        let channels = self.topics.values_mut().flat_map(|topic| topic.channels.values_mut());
        let next = channels
            .filter(|channel| channel.next_deferred().is_some())
            .min_by_key(|channel| channel.next_deferred());
        let Some(channel) = next else { return false };
        channel.drop_next_deferred();
        true
    }

    pub(super) fn count_published(&mut self, info: &Arc<ClientInfo>, topic: Name<'_>, messages: u64) {
        let producer = self
            .producers
            .entry(info.id)
            .or_insert_with(|| Producer { info: Arc::clone(info), counts: BTreeMap::new() });
        let topics = producer.counts.len();
        match producer.counts.get_mut(topic.as_str()) {
            Some(count) => *count += messages,
            None if topics < PRODUCER_TOPICS => {
                producer.counts.insert(topic.as_str().to_owned(), messages);
            }
            None => {}
        }
    }

    pub(super) fn producer_stats(&self, topic: Option<&str>) -> Vec<ClientStats> {
        let producers = self.producers.values();
        producers.map(|producer| ClientStats::producer(&producer.info, &producer.counts, topic)).collect()
    }
}
