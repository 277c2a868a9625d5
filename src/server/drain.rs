//! Telling a worker's connections to end.
//!
//! A connection is polled for every read and write, so that what it asks each time must cost nothing: a flag of
//! this thread. It leaves its waker once, and is woken once.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// A cheap handle to one worker's wish to end.
#[derive(Clone, Default)]
pub(super) struct Drain {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    begun: Cell<bool>,
    next: Cell<u64>,
    wakers: RefCell<std::collections::HashMap<u64, Waker>>,
}

impl Drain {
    /// Tells every connection.
    pub(super) fn begin(&self) {
        self.inner.begun.set(true);
        for (_, waker) in self.inner.wakers.borrow_mut().drain() {
            waker.wake();
        }
    }

    /// Resolves when it has begun, and what had come by then is known: tokio learns what there is to read
    /// between two rounds of its tasks.
    pub(super) async fn begun(&self) {
        let registration = Registration::new(self);
        poll_fn(|cx| if registration.is_due(cx.waker()) { Poll::Ready(()) } else { Poll::Pending }).await;
        tokio::task::yield_now().await;
    }

    /// Resolves so long after it has begun.
    pub(super) async fn begun_for(&self, grace: Duration) {
        self.begun().await;
        tokio::time::sleep(grace).await;
    }

    /// Drives `connection` to its end, and calls `end` on it once when the drain has begun or `until` resolves.
    pub(super) async fn watch<C: Future>(
        &self,
        until: impl Future<Output = ()>,
        mut connection: Pin<&mut C>,
        end: impl FnOnce(Pin<&mut C>),
    ) -> C::Output {
        tokio::select! {
            biased; // a request that has come is taken in first
            output = connection.as_mut() => return output,
            () = self.begun() => end(connection.as_mut()),
            () = until => end(connection.as_mut()),
        }
        connection.await
    }
}

/// A place for the waker of one connection, given up when that ends.
struct Registration<'a> {
    inner: &'a Inner,
    id: u64,
    registered: Cell<bool>,
}

impl<'a> Registration<'a> {
    fn new(drain: &'a Drain) -> Self {
        let inner = &*drain.inner;
        let id = inner.next.get();
        inner.next.set(id + 1);
        Self { inner, id, registered: Cell::new(false) }
    }

    /// A task's waker stays the same for as long as it lives, so that the first one is kept.
    fn is_due(&self, waker: &Waker) -> bool {
        if !self.registered.replace(true) {
            self.inner.wakers.borrow_mut().insert(self.id, waker.clone());
        }
        self.inner.begun.get()
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.inner.wakers.borrow_mut().remove(&self.id);
    }
}
