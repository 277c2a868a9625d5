//! Section `gateway.tls`: what encrypts users' connections.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::reader::Reader;
use super::{Fault, Faults};
use crate::tls::Identity;

/// The certificate and the key of `gateway.listen`, as PEM files.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tls {
    /// The certificate, and after it those between it and a root that clients know.
    pub cert: PathBuf,
    /// Its private key, not encrypted: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// How often the files are looked at for a change. Default 10s, from 10ms to 24h.
    pub check_interval: Duration,
}

impl Tls {
    /// `None` without files: then connections are in the clear.
    pub(super) fn read(mut section: Reader<'_>) -> Option<Self> {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
        let check_interval = section.within("check_interval", Duration::from_secs(10), least, most);
        let cert: Option<String> = section.optional("cert");
        let key: Option<String> = section.optional("key");
        if cert.is_some() != key.is_some() {
            let missing = if cert.is_some() { "key" } else { "cert" };
            section.fault(missing, "is missing: a certificate and its key go together".to_owned());
        }
        section.finish();
        Some(Self { cert: cert?.into(), key: key?.into(), check_interval })
    }

    /// What is wrong with the files.
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if let Err(found) = Identity::load(self.cert.clone(), self.key.clone()) {
            faults.extend(Faults::of_tls(found).iter().cloned());
        }
    }
}
