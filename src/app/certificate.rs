//! The certificate that the workers show, which changes with its files and with the config.

use std::future::pending;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::config::{Config, Running};
use crate::metrics::Metrics;
use crate::tls::{Fault, Identity};

/// The present one, if connections are encrypted at all. A cheap handle.
#[derive(Clone, Default)]
pub(super) struct Certificate {
    present: Arc<ArcSwapOption<Identity>>,
}

impl Certificate {
    /// The one that a config wants: the present one if it is of the same files.
    ///
    /// # Errors
    /// The files were good when the config was read; they may have changed since.
    pub(super) fn of(&self, config: &Config) -> Result<Option<Identity>, Vec<Fault>> {
        let Some(files) = &config.gateway.tls else { return Ok(None) };
        match self.present() {
            Some(present) if present.is_of(&files.cert, &files.key) => Ok(Some(present)),
            _ => Identity::load(files.cert.clone(), files.key.clone()).map(Some),
        }
    }

    /// From now on this one is shown.
    pub(super) fn set(&self, identity: Option<Identity>) {
        self.present.store(identity.map(Arc::new));
    }

    pub(super) fn present(&self) -> Option<Identity> {
        self.present.load().as_deref().cloned()
    }

    /// Looks after its files for as long as it is polled.
    pub(super) async fn watch(self, mut config: Running, metrics: Metrics) {
        loop {
            let now = config.now();
            let (identity, files) = (self.present(), &now.gateway.tls);
            let watch = async {
                match identity.zip(files.as_ref()) {
                    Some((identity, files)) => {
                        identity.watch(files.check_interval, |used| metrics.tls_reloaded(used)).await;
                    }
                    None => pending().await,
                }
            };
            tokio::select! {
                () = watch => {}
                _ = config.changed() => {}
            }
        }
    }
}
