//! The two files: what they hold, what may be wrong with that, and whether they have changed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use tokio_rustls::rustls::{Error, InconsistentKeys, ServerConfig};

use crate::file_watch::{Text, Watched};

/// What is offered in a handshake, the better first (RFC 9113 §3.1, RFC 7301 §6).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Where the pair is.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// The certificate, and those between it and a root that clients know.
    Cert,
    /// Its private key.
    Key,
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cert => "cert",
            Self::Key => "key",
        })
    }
}

/// What is wrong with one of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {message}")]
pub struct Fault {
    /// In which.
    pub file: File,
    /// Such as `"a.pem" holds no certificate`. Says nothing of what a key file holds.
    pub message: String,
}

/// What both hold.
pub(super) struct Pair {
    /// What a handshake needs.
    pub(super) config: Arc<ServerConfig>,
    /// When the first of the chain is no longer good, if that can be told.
    pub(super) expires: Option<SystemTime>,
}

type Loaded = Result<Arc<Pair>, Vec<Fault>>;

impl Files {
    /// Reads and loads both.
    pub(super) fn read(&self) -> (Watched, Loaded) {
        let (watched, texts) = Watched::read([self.cert.clone(), self.key.clone()], MAX_FILE);
        (watched, self.load(texts))
    }

    /// Makes of both texts, the certificate's and the key's, what a handshake needs.
    pub(super) fn load(&self, texts: Vec<Text>) -> Loaded {
        let mut texts = texts.into_iter();
        let mut next = || texts.next().unwrap_or_else(|| Err("was not read".to_owned()));
        let (cert, key) = (next(), next());
        let provider = Arc::new(ring::default_provider());
        let cert = cert.and_then(|text| certificates(&text));
        let key = key.and_then(|text| private_key(&text, &provider));
        let pair = match (cert, key) {
            (Ok(cert), Ok(key)) => CertifiedKey::new(cert, key),
            (cert, key) => {
                let cert = cert.err().map(|message| self.fault(File::Cert, message));
                let key = key.err().map(|message| self.fault(File::Key, message));
                return Err(cert.into_iter().chain(key).collect());
            }
        };
        match pair.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(vec![self.fault(File::Key, "does not match the certificate")]);
            }
            Err(error) => return Err(vec![self.fault(File::Cert, format!("is not a certificate: {error}"))]),
        }
        let expires = pair.cert.iter().filter_map(expires).min();
        let config = config(pair, provider)
            .map_err(|error| vec![self.fault(File::Cert, format!("cannot be used: {error}"))])?;
        Ok(Arc::new(Pair { config, expires }))
    }

    fn fault(&self, file: File, message: impl fmt::Display) -> Fault {
        let path = match file {
            File::Cert => &self.cert,
            File::Key => &self.key,
        };
        Fault { file, message: format!("\"{}\" {message}", path.display()) }
    }
}

/// The whole chain, the gateway's own certificate first.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match chain {
        Ok(chain) if chain.is_empty() => Err("holds no certificate in PEM".to_owned()),
        Ok(chain) => Ok(chain),
        Err(_) => Err("is not PEM".to_owned()),
    }
}

/// The end of its validity (RFC 5280 §4.1.2.5).
fn expires(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp().try_into().unwrap_or(0); // long ago
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The parser's own errors would show what stands in the file.
fn private_key(text: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        PemError::NoItemsFound => "holds no private key in PEM, or only an encrypted one".to_owned(),
        _ => "is not PEM".to_owned(),
    })?;
    provider.key_provider.load_private_key(key).map_err(|_| "is not a key of a known kind".to_owned())
}

fn config(pair: CertifiedKey, provider: Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    // The client keeps its session itself, sealed with a key that changes every few hours.
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}
