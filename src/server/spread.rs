//! Spreading connections over the workers.
//!
//! The kernel chooses a listener by a hash, which is even for many connections and not for a few: two long ones may
//! share a worker while another idles. So a worker that has many more than another hands new ones on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A connection that was accepted, and its place.
pub(super) type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// One that counts as a worker's already.
pub(super) type Placed = (Accepted, Counted);

/// One worker's hand in the spreading.
pub struct Spread {
    index: usize,
    workers: Arc<[Worker]>,
    handed_on: mpsc::UnboundedReceiver<Handed>,
}

/// A connection between two workers: on neither's runtime.
type Handed = (std::net::TcpStream, SocketAddr, OwnedSemaphorePermit, Counted);

struct Worker {
    connections: AtomicUsize,
    /// Never holds more than there are places.
    hand_on: mpsc::UnboundedSender<Handed>,
}

impl Spread {
    /// For a worker that shares with nobody.
    pub fn alone() -> Self {
        let (_, handed_on) = mpsc::unbounded_channel();
        Self { index: 0, workers: Arc::new([]), handed_on }
    }

    /// One for each of so many workers.
    pub fn over(workers: usize) -> Vec<Self> {
        let (workers, receivers): (Vec<_>, Vec<_>) = (0..workers)
            .map(|_| {
                let (hand_on, handed_on) = mpsc::unbounded_channel();
                (Worker { connections: AtomicUsize::new(0), hand_on }, handed_on)
            })
            .unzip();
        let workers: Arc<[Worker]> = workers.into();
        let receivers = receivers.into_iter().enumerate();
        receivers.map(|(index, handed_on)| Self { index, workers: workers.clone(), handed_on }).collect()
    }

    /// Counts a connection as that worker's until the guard is dropped.
    fn count(&self, index: usize) -> Counted {
        let counted = Counted { index, workers: self.workers.clone() };
        counted.with(|connections| connections.fetch_add(1, Ordering::Relaxed));
        counted
    }

    /// Which worker is to serve a connection that this one has accepted; `None` if it is this one.
    ///
    /// Handing on costs more than serving what came here, so a difference that does no harm stays.
    fn choose(&self) -> Option<usize> {
        let count = |worker: &Worker| worker.connections.load(Ordering::Relaxed);
        let mine = self.workers.get(self.index).map_or(0, count);
        if mine == 0 {
            return None;
        }
        let (least, index) = self.workers.iter().enumerate().map(|(n, worker)| (count(worker), n)).min()?;
        (mine > 2 * least).then_some(index)
    }

    /// Hands a connection to another worker if that has much less to do. Returns it if it is to be served here.
    pub(super) fn place(&self, accepted: Accepted) -> Option<Placed> {
        let Some((index, worker)) = self.choose().and_then(|index| Some((index, self.workers.get(index)?)))
        else {
            return Some(self.here(accepted));
        };
        let (stream, peer, permit) = accepted;
        let stream = stream.into_std().ok()?; // or it is broken, and closes
        // It counts at once: a worker that is held up for a moment must not be handed everything.
        let handed = (stream, peer, permit, self.count(index));
        // A worker that drains takes no more.
        let (stream, peer, permit, _) = worker.hand_on.send(handed).err()?.0;
        Some(self.here((TcpStream::from_std(stream).ok()?, peer, permit)))
    }

    /// A connection that is served here.
    pub(super) fn here(&self, accepted: Accepted) -> Placed {
        (accepted, self.count(self.index))
    }

    /// The next connection that another worker handed to this one.
    pub(super) async fn handed_on(&mut self) -> Option<Placed> {
        placed(self.handed_on.recv().await?)
    }

    /// Takes no more from others; what they have handed on is still to be served.
    pub(super) fn close(&mut self) -> Vec<Placed> {
        self.handed_on.close();
        let mut handed_on = Vec::new();
        while let Ok(handed) = self.handed_on.try_recv() {
            handed_on.extend(placed(handed));
        }
        handed_on
    }
}

fn placed((stream, peer, permit, counted): Handed) -> Option<Placed> {
    Some(((TcpStream::from_std(stream).ok()?, peer, permit), counted))
}

/// A connection that counts.
pub(super) struct Counted {
    index: usize,
    workers: Arc<[Worker]>,
}

impl Counted {
    fn with(&self, change: impl FnOnce(&AtomicUsize) -> usize) {
        if let Some(worker) = self.workers.get(self.index) {
            change(&worker.connections);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.with(|connections| connections.fetch_sub(1, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_with_many_more_than_another_hands_on() {
        let workers = Spread::over(3);
        assert_eq!(workers[0].choose(), None, "the first stays where it came");
        let mut counted = vec![workers[0].count(0)];
        assert_eq!(workers[0].choose(), Some(1), "another has none");
        counted.extend([workers[1].count(1), workers[2].count(2)]);
        assert_eq!(workers[0].choose(), None);
        counted.push(workers[0].count(0));
        assert_eq!(workers[0].choose(), None, "two to one does no harm");
        counted.push(workers[0].count(0));
        assert_eq!(workers[0].choose(), Some(1));
        drop(counted);
        assert_eq!(workers[0].choose(), None);
    }
}
