//! The certificate that the workers show, which changes with its files and with the config.

use std::future::pending;
use std::pin::pin;
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
            metrics.set_certificate_expires(identity.as_ref().and_then(Identity::expires));
            let changed = async {
                match identity.zip(files.as_ref()) {
                    Some((identity, files)) => {
                        identity.changed(files.check_interval).await;
                        identity
                    }
                    None => pending().await,
                }
            };
            let mut changed = pin!(changed);
            let changed = loop {
                tokio::select! {
                    identity = &mut changed => break Some(identity),
                    _ = config.changed() => {}
                }
                // Begun anew for each config, an interval would never end where these come faster.
                if config.now().gateway.tls != now.gateway.tls {
                    break None;
                }
            };
            // Out of reach of another config: a change is told once.
            if let Some(identity) = changed {
                metrics.tls_reloaded(identity.load_again().await);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::pin::pin;
    use std::sync::mpsc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use tokio::task::spawn_blocking;

    use super::*;
    use crate::config::Master;
    use crate::metrics::Scrape;

    fn write_pair(dir: &Path) {
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), pair.cert.pem()).unwrap();
        std::fs::write(dir.join("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    }

    /// Whether a new pair is used, if another config comes after these steps of the watch, each of which takes so long.
    async fn is_used(changes: impl Fn(usize) -> bool, each: Duration) -> bool {
        let dir = tempfile::tempdir().unwrap();
        write_pair(dir.path());
        let files = format!("cert: '{0}/cert.pem', key: '{0}/key.pem'", dir.path().display());
        let config: Config = format!("gateway: {{tls: {{{files}, check_interval: 10ms}}}}").parse().unwrap();
        let (master, certificate) = (Master::new(config.clone()), Certificate::default());
        certificate.set(certificate.of(&config).unwrap());
        let metrics = Metrics::new(1, &[], &[]).unwrap();
        let mut watch = pin!(certificate.watch(master.running(), metrics.clone()));
        write_pair(dir.path());
        for step in 0..40 {
            // There is one thread for what blocks: until this one goes nothing is read.
            let (hold, held) = mpsc::channel::<()>();
            let holds = spawn_blocking(move || held.recv());
            let mut step_on = || watch.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(step_on().is_pending());
            if changes(step) {
                master.replace(Arc::new(config.clone()));
                assert!(step_on().is_pending());
            }
            drop(hold);
            assert!(holds.await.unwrap().is_err());
            spawn_blocking(|| ()).await.unwrap(); // what was to be read has been
            tokio::time::advance(each).await;
        }
        let text = metrics.render(&Scrape { dataservers: &[], frozen: false });
        text.contains("gateway_tls_reloads_total{result=\"used\"} 1")
    }

    fn runtime() -> tokio::runtime::Runtime {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).max_blocking_threads(1).build().unwrap()
    }

    #[test]
    fn a_new_pair_is_used_whenever_another_config_comes() {
        let is_lost =
            |at: &usize| !runtime().block_on(is_used(|step| step == *at, Duration::from_millis(11)));
        let lost: Vec<_> = (0..15).filter(is_lost).collect();
        assert!(lost.is_empty(), "not after {lost:?} steps");
    }

    #[test]
    fn a_new_pair_is_used_though_configs_come_faster_than_it_is_looked_at() {
        assert!(runtime().block_on(is_used(|_| true, Duration::from_millis(6))));
    }
}
