//! The control tasks that live as long as the gateway.

use std::future::Future;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Control tasks, stopped in two steps: first those that use what the others offer.
#[derive(Default)]
pub(super) struct Tasks {
    early: Group,
    late: Group,
    handed_over: CancellationToken,
}

#[derive(Default)]
struct Group {
    stop: CancellationToken,
    running: JoinSet<&'static str>,
}

impl Tasks {
    /// A task that is stopped first. It gets what tells it to end, and ends by itself.
    pub(super) fn spawn_early<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.early.spawn(name, task);
    }

    /// A task that others use. It gets what tells it to end, and ends by itself; when another gateway has taken over, which
    /// does the same, it is dropped.
    pub(super) fn spawn_late<F>(&mut self, name: &'static str, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handed_over = self.handed_over.clone();
        self.late.spawn(name, |stop| {
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
        self.late.spawn(name, |stop| async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Resolves with the name of a task that ended though nobody stopped it.
    pub(super) async fn one_failed(&mut self) -> String {
        let ended: Result<&str, JoinError> = tokio::select! {
            Some(ended) = self.early.running.join_next() => ended,
            Some(ended) = self.late.running.join_next() => ended,
            else => std::future::pending().await,
        };
        ended.map_or_else(|error| format!("a control task ({error})"), str::to_owned)
    }

    /// Ends what another gateway does from now on.
    pub(super) async fn hand_over(&mut self) {
        self.early.stop().await;
        self.handed_over.cancel();
    }

    /// Stops them, in order.
    pub(super) async fn stop(mut self) {
        self.early.stop().await;
        self.late.stop().await;
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
