//! The config that holds at present, for tasks that live as long as the gateway.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;

use super::Config;

/// The one place where it is replaced.
pub struct Master {
    sender: watch::Sender<Arc<Config>>,
}

/// The config that holds at present. A cheap handle.
#[derive(Clone)]
pub struct Running {
    receiver: watch::Receiver<Arc<Config>>,
}

impl Master {
    /// Begins with this one.
    pub fn new(config: Config) -> Self {
        Self { sender: watch::Sender::new(Arc::new(config)) }
    }

    /// For whoever is to follow it.
    pub fn running(&self) -> Running {
        Running { receiver: self.sender.subscribe() }
    }

    /// What holds now.
    pub fn now(&self) -> Arc<Config> {
        self.sender.borrow().clone()
    }

    /// From now on this one holds; everybody is told at the same time.
    pub fn replace(&self, config: Arc<Config>) {
        self.sender.send_replace(config);
    }
}

impl Running {
    /// What holds now.
    pub fn now(&self) -> Arc<Config> {
        self.receiver.borrow().clone()
    }

    /// Resolves with the next one; never once nobody can replace it any more. May be dropped at any point.
    pub async fn changed(&mut self) -> Arc<Config> {
        match self.receiver.changed().await {
            Ok(()) => self.receiver.borrow_and_update().clone(),
            Err(_) => pending().await,
        }
    }
}

impl From<Config> for Running {
    /// One that never changes.
    fn from(config: Config) -> Self {
        Master::new(config).running()
    }
}
