//! A connection's place in a channel, for as long as the value lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::broker::Broker;
use super::channel::NotInFlight;
use super::consumer::ClientId;
use super::message::{Delivery, MessageId, WireId};
use super::names::Name;

#[derive(Debug)]
pub(super) struct Subscription {
    broker: Broker,
    topic: String,
    channel: String,
    client: ClientId,
    wake: Arc<Notify>,
    signal: watch::Receiver<()>,
}

/// The channel was deleted; the connection has nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelGone;

impl Subscription {
    pub(super) fn new(
        broker: Broker,
        topic: Name<'_>,
        channel: Name<'_>,
        client: ClientId,
        wake: Arc<Notify>,
        signal: watch::Receiver<()>,
    ) -> Self {
        let (topic, channel) = (topic.as_str().to_owned(), channel.as_str().to_owned());
        Self { broker, topic, channel, client, wake, signal }
    }

    /// Resolves when there is a reason to [`take`](Self::take) again: a message came (watched for
    /// only where the consumer is `hungry`, so that no wake-up is spent on one that cannot take),
    /// or the flow control changed.
    pub(super) async fn changed(&mut self, hungry: bool) -> Result<(), ChannelGone> {
        tokio::select! {
            () = self.wake.notified(), if hungry => Ok(()),
            changed = self.signal.changed() => changed.map_err(|_| ChannelGone),
        }
    }

    /// Moves what is ready to `batch`; says whether the client would take more.
    pub(super) fn take(&self, room_bytes: usize, batch: &mut Vec<Delivery>) -> bool {
        self.broker
            .with_channel(&self.topic, &self.channel, |channel, now| {
                channel.take(self.client, room_bytes, now, batch)
            })
            .unwrap_or(false)
    }

    pub(super) fn set_ready(&self, count: u32) {
        self.broker.with_channel(&self.topic, &self.channel, |channel, _| {
            if let Some(consumer) = channel.consumer_mut(self.client) {
                consumer.ready_count = count;
            }
        });
    }

    /// Takes no more messages, but still answers those in flight.
    pub(super) fn start_close(&self) {
        self.broker.with_channel(&self.topic, &self.channel, |channel, _| {
            if let Some(consumer) = channel.consumer_mut(self.client) {
                consumer.ready_count = 0;
                consumer.closing = true;
            }
        });
    }

    pub(super) fn finish(&self, id: WireId) -> Result<(), NotInFlight> {
        let id = MessageId::from_wire(id).ok_or(NotInFlight::Unknown)?;
        self.broker
            .with_channel(&self.topic, &self.channel, |channel, _| channel.finish(self.client, id))
            .unwrap_or(Err(NotInFlight::Unknown))
    }

    pub(super) fn requeue(&self, id: WireId, delay: Duration) -> Result<(), NotInFlight> {
        let id = MessageId::from_wire(id).ok_or(NotInFlight::Unknown)?;
        self.broker
            .with_channel(&self.topic, &self.channel, |channel, now| {
                channel.requeue(self.client, id, delay, now)
            })
            .unwrap_or(Err(NotInFlight::Unknown))
    }

    pub(super) fn touch(&self, id: WireId) -> Result<(), NotInFlight> {
        let id = MessageId::from_wire(id).ok_or(NotInFlight::Unknown)?;
        self.broker
            .with_channel(&self.topic, &self.channel, |channel, now| channel.touch(self.client, id, now))
            .unwrap_or(Err(NotInFlight::Unknown))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broker.unsubscribe(&self.topic, &self.channel, self.client);
    }
}
