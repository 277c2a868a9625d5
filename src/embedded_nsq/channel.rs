//! A channel: a copy of its topic's messages, shared by its consumers.
//!
//! Plain state without locks, sockets or clocks: the broker owns it, passes the time in, and
//! wakes whoever waits. A message is in one of three places: ready (waits for a consumer),
//! in flight (waits for an answer, until its deadline) or deferred (waits for its time).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::consumer::{ClientId, ClientInfo, Consumer};
use super::limits::Limits;
use super::message::{Delivery, Message, MessageId};
use super::queue::MessageQueue;
use super::stats::{ChannelStats, ClientStats};

#[derive(Debug)]
pub(super) struct Channel {
    ready: MessageQueue,
    in_flight: HashMap<MessageId, InFlight>,
    /// The deadlines of `in_flight`, in order.
    deadlines: BTreeSet<(Instant, MessageId)>,
    deferred: BTreeMap<(Instant, MessageId), Delivery>,
    deferred_limit: usize,
    max_msg_timeout: Duration,
    consumers: HashMap<ClientId, Consumer>,
    /// Wakes one waiting consumer for each message that becomes ready. A consumer looks at the
    /// queue before it waits, and a wake-up that its consumer cannot use goes on to the next, so
    /// none is lost.
    wake: Arc<Notify>,
    message_count: u64,
    requeue_count: u64,
    timeout_count: u64,
    deferred_dropped: u64,
}

#[derive(Debug)]
struct InFlight {
    delivery: Delivery,
    client: ClientId,
    delivered_at: Instant,
    deadline: Instant,
}

/// Why an answer (FIN, REQ, TOUCH) does not apply. The texts are part of the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NotInFlight {
    #[error("ID not in flight")]
    Unknown,
    #[error("client does not own message")]
    NotOwner,
}

impl Channel {
    pub(super) fn new(owner: String, limits: &Limits) -> Self {
        Self {
            ready: MessageQueue::new(owner, limits.queue_messages),
            in_flight: HashMap::new(),
            deadlines: BTreeSet::new(),
            deferred: BTreeMap::new(),
            deferred_limit: limits.queue_messages,
            max_msg_timeout: limits.max_msg_timeout,
            consumers: HashMap::new(),
            wake: Arc::new(Notify::new()),
            message_count: 0,
            requeue_count: 0,
            timeout_count: 0,
            deferred_dropped: 0,
        }
    }

    /// Takes a copy of a message fresh from the topic.
    pub(super) fn publish(&mut self, message: &Arc<Message>, now: Instant) {
        self.message_count += 1;
        let delivery = Delivery::first(message);
        if message.delay.is_zero() {
            self.put(delivery);
        } else {
            self.defer(delivery, now + message.delay);
        }
    }

    pub(super) fn subscribe(
        &mut self,
        info: Arc<ClientInfo>,
        msg_timeout: Duration,
    ) -> (Arc<Notify>, watch::Receiver<()>) {
        let id = info.id;
        let (consumer, signal) = Consumer::new(info, msg_timeout);
        self.consumers.insert(id, consumer);
        (Arc::clone(&self.wake), signal)
    }

    /// Forgets a consumer; false where it was none. What it has in flight stays there until its
    /// deadline, as in nsqd.
    pub(super) fn unsubscribe(&mut self, client: ClientId) -> bool {
        self.consumers.remove(&client).is_some()
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.consumers.is_empty()
    }

    pub(super) fn consumer_mut(&mut self, client: ClientId) -> Option<&mut Consumer> {
        self.consumers.get_mut(&client)
    }

    /// Moves ready messages to a consumer, appending them to `batch`, up to its RDY, to its fair
    /// share of what is ready, and to the first message that reaches `room_bytes`.
    ///
    /// Says whether the consumer would take more, were there more.
    pub(super) fn take(
        &mut self,
        client: ClientId,
        room_bytes: usize,
        now: Instant,
        batch: &mut Vec<Delivery>,
    ) -> bool {
        let share = self.ready.len().div_ceil(self.consumers.len().max(1));
        let Some(consumer) = self.consumers.get_mut(&client) else {
            return false;
        };
        let deadline = now + consumer.msg_timeout;
        let mut bytes = 0;

        for _ in 0..share {
            if consumer.room() == 0 || bytes >= room_bytes {
                break;
            }
            let Some(mut delivery) = self.ready.pop() else {
                break;
            };
            if is_sampled_out(consumer.info.sample_rate) {
                continue;
            }
            delivery.attempts = delivery.attempts.saturating_add(1);
            bytes += delivery.message.body.len();
            consumer.in_flight += 1;
            consumer.messages += 1;
            let id = delivery.id();
            batch.push(delivery.clone());
            self.in_flight.insert(id, InFlight { delivery, client, delivered_at: now, deadline });
            self.deadlines.insert((deadline, id));
        }

        consumer.room() > 0
    }

    pub(super) fn finish(&mut self, client: ClientId, id: MessageId) -> Result<(), NotInFlight> {
        self.remove_in_flight(client, id)?;
        if let Some(consumer) = self.consumers.get_mut(&client) {
            consumer.release_one();
            consumer.finishes += 1;
        }
        Ok(())
    }

    pub(super) fn requeue(
        &mut self,
        client: ClientId,
        id: MessageId,
        delay: Duration,
        now: Instant,
    ) -> Result<(), NotInFlight> {
        let delivery = self.remove_in_flight(client, id)?.delivery;
        self.requeue_count += 1;
        if let Some(consumer) = self.consumers.get_mut(&client) {
            consumer.release_one();
            consumer.requeues += 1;
        }
        if delay.is_zero() {
            self.put(delivery);
        } else {
            self.defer(delivery, now + delay);
        }
        Ok(())
    }

    /// Gives the consumer its whole timeout again, within the longest time that one delivery
    /// may take.
    pub(super) fn touch(&mut self, client: ClientId, id: MessageId, now: Instant) -> Result<(), NotInFlight> {
        let mut entry = self.remove_in_flight(client, id)?;
        let timeout = self.consumers.get(&client).map_or(Duration::ZERO, |c| c.msg_timeout);
        entry.deadline = (now + timeout).min(entry.delivered_at + self.max_msg_timeout);
        self.deadlines.insert((entry.deadline, id));
        self.in_flight.insert(id, entry);
        Ok(())
    }

    /// Makes ready what has timed out in flight and what was deferred until now.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(deadline, id));
            let Some(entry) = self.in_flight.remove(&id) else {
                continue;
            };
            self.timeout_count += 1;
            if let Some(consumer) = self.consumers.get_mut(&entry.client) {
                consumer.release_one();
                consumer.nudge();
            }
            self.put(entry.delivery);
        }
        while let Some(entry) = self.deferred.first_entry().filter(|entry| entry.key().0 <= now) {
            let delivery = entry.remove();
            self.put(delivery);
        }
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let timeout = self.deadlines.first().map(|(at, _)| *at);
        timeout.into_iter().chain(self.next_deferred()).min()
    }

    pub(super) fn next_deferred(&self) -> Option<Instant> {
        self.deferred.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn oldest_ready(&self) -> Option<MessageId> {
        self.ready.oldest()
    }

    pub(super) fn drop_oldest_ready(&mut self) {
        self.ready.drop_oldest();
    }

    /// Gives up the deferred message that is due first, and counts it.
    pub(super) fn drop_next_deferred(&mut self) {
        if self.deferred.pop_first().is_some() {
            self.deferred_dropped += 1;
        }
    }

    /// Forgets every message, those in flight too.
    pub(super) fn empty(&mut self) {
        self.ready.clear();
        self.in_flight = HashMap::new();
        self.deadlines = BTreeSet::new();
        self.deferred = BTreeMap::new();
        for consumer in self.consumers.values_mut() {
            consumer.in_flight = 0;
            consumer.nudge();
        }
    }

    pub(super) fn stats(&self, name: &str, with_clients: bool) -> ChannelStats {
        let clients = with_clients.then(|| {
            let mut consumers: Vec<_> = self.consumers.values().collect();
            consumers.sort_by_key(|consumer| consumer.info.id);
            consumers.into_iter().map(ClientStats::consumer).collect()
        });
        ChannelStats {
            channel_name: name.to_owned(),
            depth: self.ready.len(),
            in_flight_count: self.in_flight.len(),
            deferred_count: self.deferred.len(),
            message_count: self.message_count,
            requeue_count: self.requeue_count,
            timeout_count: self.timeout_count,
            dropped_count: self.ready.dropped() + self.deferred_dropped,
            client_count: self.consumers.len(),
            clients,
            ..ChannelStats::default()
        }
    }

    fn put(&mut self, delivery: Delivery) {
        self.ready.push(delivery);
        self.wake.notify_one();
    }

    fn defer(&mut self, delivery: Delivery, until: Instant) {
        if self.deferred.len() >= self.deferred_limit {
            self.drop_next_deferred();
        }
        self.deferred.insert((until, delivery.id()), delivery);
    }

    fn remove_in_flight(&mut self, client: ClientId, id: MessageId) -> Result<InFlight, NotInFlight> {
        match self.in_flight.get(&id) {
            None => return Err(NotInFlight::Unknown),
            Some(entry) if entry.client != client => return Err(NotInFlight::NotOwner),
            Some(_) => {}
        }
        let entry = self.in_flight.remove(&id).ok_or(NotInFlight::Unknown)?;
        self.deadlines.remove(&(entry.deadline, id));
        Ok(entry)
    }
}

/// A sample rate of 1 to 99 lets about that many of a hundred messages through; the others are
/// spent, not kept for another consumer.
fn is_sampled_out(rate: u8) -> bool {
    rate > 0 && rand::random_range(0..100) > rate
}

#[cfg(test)]
mod tests;
