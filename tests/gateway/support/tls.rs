//! Certificates that a test makes, and a client that sees what a server does with them.

use std::io::BufReader;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

use super::http::{Reply, connect, read_reply};

/// A certificate that signs itself, and its key.
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Pair {
    pub fn new() -> Self {
        Self::ending(4096)
    }

    /// One that ends with the first day of this year.
    pub fn ending(year: i32) -> Self {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 2);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    /// Writes both as `cert.pem` and `key.pem` of a folder.
    pub fn write(&self, dir: &Path) {
        std::fs::write(dir.join("cert.pem"), &self.cert).unwrap();
        std::fs::write(dir.join("key.pem"), &self.key).unwrap();
    }
}

/// An encrypted connection.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A client that offers these protocols, keeps its sessions, and shows every certificate to the test.
pub fn client(versions: &[&'static SupportedProtocolVersion], alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// Makes a handshake on a connection of its own.
pub fn handshake(to: SocketAddr, client: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    handshake_on(connect(to), client)
}

/// Makes a handshake on a connection on which something may have been sent.
pub fn handshake_on(socket: TcpStream, client: &Arc<ClientConfig>) -> std::io::Result<Stream> {
    go_on(session(client), socket)
}

/// What a client says on one connection; nothing was said yet.
pub fn session(client: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(client.clone(), ServerName::try_from("localhost").unwrap()).unwrap()
}

/// Makes a handshake of which the client's part may have begun.
pub fn go_on(mut session: ClientConnection, mut socket: TcpStream) -> std::io::Result<Stream> {
    while session.is_handshaking() {
        session.complete_io(&mut socket)?;
    }
    Ok(StreamOwned::new(session, socket))
}

/// The certificate that the other end has shown.
pub fn shown(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0].clone()
}

/// Sends a request and reads its answer; the connection can be used again.
#[track_caller]
pub fn exchange_on(stream: &mut Stream, bytes: &[u8]) -> Reply {
    std::io::Write::write_all(stream, bytes).unwrap();
    read_reply(&mut BufReader::new(stream), false).expect("no answer")
}

/// Looks at signatures only: which certificate it is the tests see for themselves.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
