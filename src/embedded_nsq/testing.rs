//! What the unit tests of several files need.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::budget::Budget;
use super::message::{Delivery, Message, MessageId};

pub(super) fn message(id: u64, delay: Duration) -> Arc<Message> {
    Arc::new(Message {
        id: MessageId(id),
        timestamp_nanos: 0,
        body: Bytes::from_static(b"body"),
        delay,
        _charge: Budget::new(0).charge(0).expect("nothing always fits"),
    })
}

pub(super) fn delivery(id: u64) -> Delivery {
    Delivery::first(&message(id, Duration::ZERO))
}
