//! The control tasks that live as long as the gateway.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Control tasks, stopped in two steps: those that use a service before the service.
#[derive(Default)]
pub(super) struct Tasks {
    early: CancellationToken,
    late: CancellationToken,
    tasks: JoinSet<&'static str>,
}

impl Tasks {
    /// What a task listens to that is stopped first.
    pub(super) fn stop_early(&self) -> CancellationToken {
        self.early.clone()
    }

    /// What a task listens to that others use until they are stopped.
    pub(super) fn stop_late(&self) -> CancellationToken {
        self.late.clone()
    }

    /// A task that ends by itself when it is told to stop.
    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// A task that never ends by itself, and may be dropped at any point.
    pub(super) fn spawn_endless(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.late.clone();
        self.spawn(name, async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Resolves with the name of a task that ended though nobody stopped it.
    pub(super) async fn one_failed(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => format!("a control task ({error})"),
            None => std::future::pending().await,
        }
    }

    /// Stops them, in order.
    pub(super) async fn stop(mut self) {
        self.early.cancel();
        // The NSQ links have to end while the runtime still runs: tokio-nsq panics when it is dropped with it.
        tokio::task::yield_now().await;
        self.late.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}
