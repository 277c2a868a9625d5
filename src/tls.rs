//! The certificate that users' connections are encrypted with, and a watch over its files.
//!
//! Versions, ciphers and key exchanges are rustls' own choice. Sessions are resumed with tickets, so that nothing is
//! kept for a client that has gone.

mod client;
mod files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;

pub use client::connect_to_anybody;
pub use files::{Fault, File};

use files::{Files, Pair};

use crate::file_watch::Watched;

/// What this gateway shows to prove who it is. A cheap handle.
#[derive(Clone)]
pub struct Identity {
    current: Arc<ArcSwap<Pair>>,
    files: Arc<Files>,
    watched: Watched,
}

impl Identity {
    /// Reads both files.
    ///
    /// # Errors
    /// Every fault that is found in them.
    pub fn load(cert: PathBuf, key: PathBuf) -> Result<Self, Vec<Fault>> {
        let files = Files { cert, key };
        let (watched, pair) = files.read();
        Ok(Self { current: Arc::new(ArcSwap::from(pair?)), files: Arc::new(files), watched })
    }

    /// Whether it is of these files.
    pub fn is_of(&self, cert: &Path, key: &Path) -> bool {
        self.files.cert == cert && self.files.key == key
    }

    /// Makes handshakes with the pair that was read last.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load().config.clone())
    }

    /// When the certificate, or one between it and a root, is no longer good; `None` if that cannot be told.
    pub fn expires(&self) -> Option<SystemTime> {
        self.current.load().expires
    }

    /// Looks at the files every `interval`, and resolves when they have changed since they were read or that was told. Whoever
    /// is told [loads](Self::load_again) them, or it is not told again. May be dropped at any point before.
    pub async fn changed(&self, interval: Duration) {
        self.watched.changed(interval).await;
    }

    /// Reads the files again. What they hold is used from the next handshake on; if it cannot be used, the last good pair
    /// stays. Returns whether it is used.
    pub async fn load_again(&self) -> bool {
        let (files, watched) = (self.files.clone(), self.watched.clone());
        let load = tokio::task::spawn_blocking(move || files.load(watched.read_again()));
        match load.await {
            Ok(Ok(pair)) => {
                self.current.store(pair);
                tracing::info!("the certificate was replaced; new connections get it");
                true
            }
            Ok(Err(faults)) => {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                let faults = faults.join("; ");
                tracing::warn!(faults, "the new certificate cannot be used; the last good one stays");
                false
            }
            Err(_panicked) => false,
        }
    }
}
