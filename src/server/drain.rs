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

use slab::Slab;

/// A cheap handle to one worker's wish to end.
#[derive(Clone, Default)]
pub(super) struct Drain {
    inner: Rc<Inner>,
}

#[derive(Default)]
struct Inner {
    begun: Cell<bool>,
    wakers: RefCell<Slab<Waker>>,
}

impl Drain {
    /// Tells every connection.
    pub(super) fn begin(&self) {
        self.inner.begun.set(true);
        for (_, waker) in self.inner.wakers.borrow().iter() {
            waker.wake_by_ref();
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

    /// Drives `connection` to its end, and calls `end` on it once when the drain has begun or `until` resolves. One that
    /// has not ended when its `limit` from then on resolves has no output.
    pub(super) async fn watch<C: Future, L: Future<Output = ()>>(
        &self,
        until: impl Future<Output = ()>,
        mut connection: Pin<&mut C>,
        end: impl FnOnce(Pin<&mut C>),
        limit: impl FnOnce(&C) -> L,
    ) -> Option<C::Output> {
        tokio::select! {
            biased; // a request that has come is taken in first
            output = connection.as_mut() => return Some(output),
            () = self.begun() => end(connection.as_mut()),
            () = until => end(connection.as_mut()),
        }
        let limit = limit(&connection);
        tokio::select! {
            biased;
            output = connection => Some(output),
            () = limit => None,
        }
    }
}

/// A place for the waker of one connection, given up when that ends.
struct Registration<'a> {
    inner: &'a Inner,
    place: Cell<Option<usize>>,
}

impl<'a> Registration<'a> {
    fn new(drain: &'a Drain) -> Self {
        Self { inner: &drain.inner, place: Cell::new(None) }
    }

    /// A task's waker stays the same for as long as it lives, so that the first one is kept.
    fn is_due(&self, waker: &Waker) -> bool {
        if self.place.get().is_none() {
            self.place.set(Some(self.inner.wakers.borrow_mut().insert(waker.clone())));
        }
        self.inner.begun.get()
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            self.inner.wakers.borrow_mut().try_remove(place);
        }
    }
}
