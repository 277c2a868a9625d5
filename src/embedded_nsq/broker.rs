//! The broker: every topic and channel behind one lock, and the clock that drives them.
//!
//! One lock for all is a choice: heartbeats are few, an operation takes about a microsecond, and
//! it leaves no window in which an ephemeral channel can vanish under a new subscriber. The guard
//! never crosses an await and the map never leaves this file.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::budget::{Budget, Charge};
use super::channel::Channel;
use super::consumer::{ClientId, ClientInfo};
use super::limits::Limits;
use super::names::{Name, is_ephemeral};
use super::stats::Stats;
use super::subscription::Subscription;

mod state;

use self::state::State;

/// A cheap handle; clones share the broker.
#[derive(Debug, Clone)]
pub(super) struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    state: Mutex<State>,
    held: Arc<Budget>,
    input: Arc<Budget>,
    next_client: AtomicU64,
    /// Rung when a deadline is earlier than the one that the clock sleeps for.
    clock: Notify,
}

/// Why the broker takes no message, topic or channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("too many topics")]
    TooManyTopics,
    #[error("too many channels")]
    TooManyChannels,
    #[error("message memory is full")]
    MemoryFull,
}

/// What a lookup by name did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotFound {
    Topic,
    Channel,
}

/// Messages published before other clients get the lock in between.
const PUBLISH_CHUNK: usize = 256;
/// The clock does not run more often than this.
const CLOCK_GRANULARITY: Duration = Duration::from_millis(5);

impl Broker {
    pub(super) fn new(limits: Limits) -> Self {
        let shared = Shared {
            held: Budget::new(limits.held_bytes),
            input: Budget::new(limits.input_bytes),
            limits,
            state: Mutex::new(State::new()),
            next_client: AtomicU64::new(1),
            clock: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(super) fn new_client_id(&self) -> ClientId {
        ClientId(self.shared.next_client.fetch_add(1, Ordering::Relaxed))
    }

    /// An empty share of what partly arrived input may take.
    pub(super) fn input_charge(&self) -> Option<Charge> {
        self.shared.input.charge(0)
    }

    /// Publishes each body to every channel of the topic, which is made where it is missing.
    pub(super) fn publish(
        &self,
        topic: Name<'_>,
        bodies: impl IntoIterator<Item = Bytes>,
        delay: Duration,
    ) -> Result<(), Refused> {
        let mut bodies = bodies.into_iter().peekable();
        while bodies.peek().is_some() {
            let now = Instant::now();
            let mut state = self.lock();
            for body in bodies.by_ref().take(PUBLISH_CHUNK) {
                state.publish(topic, body, delay, now, &self.shared.held, &self.shared.limits)?;
            }
            if !delay.is_zero() {
                self.wake_by(&mut state, now + delay);
            }
        }
        Ok(())
    }

    /// Remembers for `/stats` what a client has published.
    pub(super) fn count_published(&self, info: &Arc<ClientInfo>, topic: Name<'_>, messages: u64) {
        self.lock().count_published(info, topic, messages);
    }

    pub(super) fn forget_producer(&self, client: ClientId) {
        self.lock().producers.remove(&client);
    }

    /// Subscribes a client; topic and channel are made where they are missing. Dropping the
    /// subscription ends it.
    pub(super) fn subscribe(
        &self,
        topic: Name<'_>,
        channel: Name<'_>,
        info: &Arc<ClientInfo>,
        msg_timeout: Duration,
    ) -> Result<Subscription, Refused> {
        let now = Instant::now();
        let mut state = self.lock();
        let target = state.channel(topic, channel, now, &self.shared.limits)?;
        let (wake, signal) = target.subscribe(Arc::clone(info), msg_timeout);
        let next = target.next_deadline();
        self.wake_by_some(&mut state, next);
        drop(state);
        Ok(Subscription::new(self.clone(), topic, channel, info.id, wake, signal))
    }

    /// Ends a subscription; an ephemeral channel goes with its last consumer.
    pub(super) fn unsubscribe(&self, topic: &str, channel: &str, client: ClientId) {
        let mut state = self.lock();
        let Some(target) = state.existing_channel(topic, channel) else {
            return;
        };
        // A namesake made after this client's channel was deleted is none of its business.
        let was_here = target.unsubscribe(client);
        if was_here && is_ephemeral(channel) && !target.has_consumers() {
            debug!(topic, channel, "ephemeral channel ends with its last consumer");
            state.remove_channel(topic, channel);
        }
    }

    /// Does something to a channel; `None` where it does not exist (any more).
    pub(super) fn with_channel<R>(
        &self,
        topic: &str,
        channel: &str,
        action: impl FnOnce(&mut Channel, Instant) -> R,
    ) -> Option<R> {
        let mut state = self.lock();
        let target = state.existing_channel(topic, channel)?;
        let result = action(target, Instant::now());
        let next = target.next_deadline();
        self.wake_by_some(&mut state, next);
        Some(result)
    }

    pub(super) fn create_topic(&self, topic: Name<'_>) -> Result<(), Refused> {
        self.lock().topic(topic, &self.shared.limits).map(drop)
    }

    /// Makes a channel of an existing topic.
    pub(super) fn create_channel(
        &self,
        topic: Name<'_>,
        channel: Name<'_>,
    ) -> Result<Result<(), Refused>, NotFound> {
        let now = Instant::now();
        let mut state = self.lock();
        if !state.topics.contains_key(topic.as_str()) {
            return Err(NotFound::Topic);
        }
        let made = state.channel(topic, channel, now, &self.shared.limits);
        let made = made.map(|channel| channel.next_deadline());
        Ok(made.map(|next| self.wake_by_some(&mut state, next)))
    }

    /// Removes a topic with its channels; their consumers are disconnected.
    pub(super) fn delete_topic(&self, topic: &str) -> Result<(), NotFound> {
        self.lock().topics.remove(topic).map(drop).ok_or(NotFound::Topic)
    }

    /// Removes a channel; its consumers are disconnected.
    pub(super) fn delete_channel(&self, topic: &str, channel: &str) -> Result<(), NotFound> {
        let mut state = self.lock();
        if !state.topics.contains_key(topic) {
            return Err(NotFound::Topic);
        }
        state.remove_channel(topic, channel).ok_or(NotFound::Channel)
    }

    /// Forgets what waits in the topic itself.
    pub(super) fn empty_topic(&self, topic: &str) -> Result<(), NotFound> {
        let mut state = self.lock();
        state.topics.get_mut(topic).ok_or(NotFound::Topic)?.backlog.clear();
        Ok(())
    }

    /// Forgets every message of a channel.
    pub(super) fn empty_channel(&self, topic: &str, channel: &str) -> Result<(), NotFound> {
        let mut state = self.lock();
        let topic = state.topics.get_mut(topic).ok_or(NotFound::Topic)?;
        topic.channels.get_mut(channel).ok_or(NotFound::Channel)?.empty();
        Ok(())
    }

    pub(super) fn topics(&self) -> Vec<String> {
        self.lock().topics.keys().cloned().collect()
    }

    /// The channels of a topic; `None` where there is no such topic.
    pub(super) fn channels(&self, topic: &str) -> Option<Vec<String>> {
        Some(self.lock().topics.get(topic)?.channels.keys().cloned().collect())
    }

    /// Statistics of all topics or one, all channels or one, with the clients or without.
    pub(super) fn stats(&self, topic: Option<&str>, channel: Option<&str>, clients: bool) -> Stats {
        let state = self.lock();
        let topics = state
            .topics
            .iter()
            .filter(|(name, _)| topic.is_none_or(|only| only == name.as_str()))
            .filter_map(|(_, topic)| topic.stats(channel, clients))
            .collect();
        let producers = clients.then(|| state.producer_stats(topic));
        Stats { topics, producers: producers.filter(|list| !list.is_empty()) }
    }

    /// Brings timed-out and deferred messages back in time, for ever.
    pub(super) async fn run_clock(&self) {
        loop {
            let now = Instant::now();
            let next = self.expire(now);
            let due = async {
                match next {
                    Some(at) => sleep_until(at.max(now + CLOCK_GRANULARITY)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.shared.clock.notified() => {}
            }
        }
    }

    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let mut next: Option<Instant> = None;
        for channel in state.topics.values_mut().flat_map(|topic| topic.channels.values_mut()) {
            channel.expire(now);
            next = next.into_iter().chain(channel.next_deadline()).min();
        }
        state.wake_at = next;
        next
    }

    fn wake_by_some(&self, state: &mut State, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.wake_by(state, deadline);
        }
    }

    fn wake_by(&self, state: &mut State, deadline: Instant) {
        if state.wake_at.is_none_or(|at| deadline < at) {
            state.wake_at = Some(deadline);
            self.shared.clock.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-done by a panic that would matter more than going on.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
