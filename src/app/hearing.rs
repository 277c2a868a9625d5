//! How heartbeats come in: the embedded NSQ, if there is one, and what reads them.

use super::supervise::Tasks;
use crate::embedded_nsq::EmbeddedNsq;
use crate::nsq::Subscriber;

/// What is not started yet.
pub(super) struct Hearing {
    nsq: Option<EmbeddedNsq>,
    subscriber: Option<Subscriber>,
    has_own_channel: bool,
}

impl Hearing {
    pub(super) fn new(nsq: Option<EmbeddedNsq>, subscriber: Subscriber, has_own_channel: bool) -> Self {
        Self { nsq, subscriber: Some(subscriber), has_own_channel }
    }

    /// Starts what does not run yet. Beside a gateway that is to be taken over from only what takes no heartbeat away from
    /// it: who connects to the embedded NSQ, at sockets that both hold, reaches one of them alone, and a message of a channel
    /// that both read goes to one of them alone.
    pub(super) fn start(&mut self, tasks: &mut Tasks, is_beside_another: bool) {
        if !is_beside_another && let Some(nsq) = self.nsq.take() {
            tasks.spawn_server("embedded NSQ", |end| nsq.run(end.cancelled_owned()));
        }
        // Until the other one has left, its embedded NSQ is the one that is read.
        if (!is_beside_another || self.has_own_channel)
            && let Some(subscriber) = self.subscriber.take()
        {
            tasks.spawn_client("NSQ subscriber", |stop| subscriber.run(stop));
        }
    }
}
