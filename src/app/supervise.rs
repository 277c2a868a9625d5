//! The control tasks that live as long as the gateway.

use std::convert::Infallible;
use std::future::Future;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Control tasks, stopped in an order: who uses what others offer, who offers it, and the rest.
pub(super) struct Tasks {
    clients: Group,
    servers: Group,
    others: Group,
    /// Each server that still takes somebody in has a copy, which says nothing.
    open: (mpsc::Sender<Infallible>, mpsc::Receiver<Infallible>),
    handed_over: CancellationToken,
}

#[derive(Default)]
struct Group {
    stop: CancellationToken,
    running: JoinSet<&'static str>,
}

impl Default for Tasks {
    fn default() -> Self {
        let (clients, servers, others) = Default::default();
        Self { clients, servers, others, open: mpsc::channel(1), handed_over: CancellationToken::new() }
    }
}

impl Tasks {
    /// A task that uses what others offer. It gets what tells it to end, and ends by itself.
    pub(super) fn spawn_client<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.clients.spawn(name, task);
    }

    /// Cancelled when those are told to end that use what others offer.
    pub(super) fn clients_are_stopped(&self) -> CancellationToken {
        self.clients.stop.clone()
    }

    /// A task that others use. It gets what tells it to end: then it takes nobody in any more, and makes a future that
    /// resolves when who was there has gone.
    pub(super) fn spawn_server<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output: Future<Output = ()> + Send> + Send + 'static,
    {
        let open = self.open.0.clone();
        self.servers.spawn(name, |stop| {
            let task = task(stop);
            async move {
                let all_gone = task.await;
                drop(open);
                all_gone.await;
            }
        });
    }

    /// A task that gets what tells it to end, and ends by itself; when another gateway has taken over, which does the same,
    /// it is dropped.
    pub(super) fn spawn_until_handed_over<F>(
        &mut self,
        name: &'static str,
        task: impl FnOnce(CancellationToken) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let handed_over = self.handed_over.clone();
        self.others.spawn(name, |stop| {
            let task = task(stop);
            async move {
                handed_over.run_until_cancelled(task).await;
            }
        });
    }

    /// A task that never ends by itself, and may be dropped at any point.
    pub(super) fn spawn_endless(
        &mut self,
        name: &'static str,
        task: impl Future<Output: Send> + Send + 'static,
    ) {
        self.others.spawn(name, |stop| async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Resolves with the name of a task that ended though nobody stopped it.
    pub(super) async fn one_failed(&mut self) -> String {
        let ended: Result<&str, JoinError> = tokio::select! {
            Some(ended) = self.clients.running.join_next() => ended,
            Some(ended) = self.servers.running.join_next() => ended,
            Some(ended) = self.others.running.join_next() => ended,
            else => std::future::pending().await,
        };
        ended.map_or_else(|error| format!("a control task ({error})"), str::to_owned)
    }

    /// Ends what another gateway does from now on. Who is still there may hold up the end of this one, and not the other.
    pub(super) async fn hand_over(&mut self) {
        self.clients.stop().await;
        self.servers.stop.cancel();
        let none = mpsc::channel(1);
        let (open, mut all_closed) = std::mem::replace(&mut self.open, none);
        drop(open);
        let None = all_closed.recv().await;
        self.handed_over.cancel();
    }

    /// Stops them, in order.
    pub(super) async fn stop(mut self) {
        self.clients.stop().await;
        self.servers.stop().await;
        self.others.stop().await;
    }
}

impl Group {
    fn spawn<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(self.stop.clone());
        self.running.spawn(async move {
            task.await;
            name
        });
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }
}
