//! A bounded first-in-first-out queue that gives up its oldest message for a new one.

use std::collections::VecDeque;

use tracing::{info, warn};

use super::message::{Delivery, MessageId};

/// What waits in a topic or channel. For heartbeats the newest is worth the most, so a full
/// queue drops from its front.
#[derive(Debug)]
pub(super) struct MessageQueue {
    /// Whose queue it is, for the log.
    owner: String,
    limit: usize,
    messages: VecDeque<Delivery>,
    dropped: u64,
    overflowing: bool,
}

impl MessageQueue {
    pub(super) fn new(owner: String, limit: usize) -> Self {
        Self { owner, limit, messages: VecDeque::new(), dropped: 0, overflowing: false }
    }

    pub(super) fn push(&mut self, delivery: Delivery) {
        if self.messages.len() >= self.limit {
            self.drop_oldest();
            if !self.overflowing {
                self.overflowing = true;
                warn!(queue = %self.owner, limit = self.limit, "queue full: dropping its oldest messages");
            }
        }
        self.messages.push_back(delivery);
    }

    pub(super) fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.messages.pop_front();
        // Half empty, not just one below the limit: a queue at its limit must not log per message.
        if self.overflowing && self.messages.len() <= self.limit / 2 {
            self.overflowing = false;
            info!(queue = %self.owner, dropped_total = self.dropped, "queue has room again");
        }
        delivery
    }

    /// Gives up the message at the front, and counts it.
    pub(super) fn drop_oldest(&mut self) {
        if self.messages.pop_front().is_some() {
            self.dropped += 1;
        }
    }

    pub(super) fn oldest(&self) -> Option<MessageId> {
        self.messages.front().map(Delivery::id)
    }

    pub(super) fn clear(&mut self) {
        self.messages = VecDeque::new();
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Messages given up for newer ones since the queue exists.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::delivery;
    use super::*;

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts() {
        let mut queue = MessageQueue::new("t".to_owned(), 2);
        for id in 1..=5 {
            queue.push(delivery(id));
        }
        assert_eq!((queue.len(), queue.dropped()), (2, 3));
        assert_eq!(queue.pop().map(|d| d.id()), Some(MessageId(4)));
        assert_eq!(queue.pop().map(|d| d.id()), Some(MessageId(5)));
        assert!(queue.len() == 0 && !queue.overflowing);
    }

    #[test]
    fn the_oldest_is_the_one_at_the_front() {
        let mut queue = MessageQueue::new("t".to_owned(), 9);
        assert_eq!(queue.oldest(), None);
        queue.push(delivery(7));
        queue.push(delivery(3));
        assert_eq!(queue.oldest(), Some(MessageId(7)));
        queue.clear();
        assert_eq!(queue.oldest(), None);
    }
}
