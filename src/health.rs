//! How a running gateway is, asked over its own listener, as the health check of a container does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::addr::Addr;
use crate::config::Gateway;
use crate::fetch::{self, FetchError};
use crate::tls;

/// Version 2 of the PROXY protocol, command LOCAL, no addresses: what a health check sends (HAProxy's
/// `doc/proxy-protocol.txt`, section 2.2).
const LOCAL_HEADER: &[u8; 16] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Where a gateway answers `/healthz` and `/readyz`, and what must come before the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    host: String,
    over_tls: bool,
    header: Option<Header>,
}

/// A PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Header {
    Taken,
    /// The gateway takes it from other networks, and from this machine no connection at all.
    Refused,
}

/// Why the answer is not yes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unhealthy {
    /// It says no.
    #[error("{0}: {1}")]
    Answered(StatusCode, String),
    /// It says nothing that can be read.
    #[error("{0} does not answer: {1}")]
    Silent(String, FetchError),
    /// It would refuse whatever this machine asks.
    #[error(
        "{0} takes connections from the networks in gateway.proxy_protocol alone, and this machine is in none of \
         them; set gateway.admin_listen"
    )]
    Refused(String),
}

impl Listener {
    /// The one that serves the admin paths, as it is reached from the same machine.
    pub fn of(gateway: &Gateway) -> Self {
        if let Some(admin) = gateway.admin_listen {
            return Self { host: reached_at(admin).to_string(), over_tls: false, header: None };
        }
        let at = reached_at(gateway.listen);
        let header = gateway
            .proxy_protocol
            .as_ref()
            .map(|senders| if senders.contains(at.ip()) { Header::Taken } else { Header::Refused });
        Self { host: at.to_string(), over_tls: gateway.tls.is_some(), header }
    }

    /// One that speaks HTTP in the clear, whoever listens there.
    pub fn at(addr: &Addr) -> Self {
        Self { host: addr.to_string(), over_tls: false, header: None }
    }

    /// Asks for `path`; a yes is any 2xx, and what is returned is its body.
    ///
    /// # Errors
    /// When the answer is another, or none comes `within` this time.
    pub async fn ask(&self, path: &str, within: Duration) -> Result<String, Unhealthy> {
        if self.header == Some(Header::Refused) {
            return Err(Unhealthy::Refused(self.host.clone()));
        }
        let answer = tokio::time::timeout(within, self.exchange(path)).await;
        let answer = answer.unwrap_or(Err(FetchError::Timeout(within)));
        let (head, body) = answer.map_err(|error| Unhealthy::Silent(self.host.clone(), error))?.into_parts();
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        if head.status.is_success() { Ok(body) } else { Err(Unhealthy::Answered(head.status, body)) }
    }

    async fn exchange(&self, path: &str) -> Result<http::Response<bytes::Bytes>, FetchError> {
        let mut stream = TcpStream::connect(&self.host).await.map_err(FetchError::Connect)?;
        if self.header.is_some() {
            stream.write_all(LOCAL_HEADER).await.map_err(FetchError::Connect)?;
        }
        if !self.over_tls {
            return fetch::get_on(stream, &self.host, path).await;
        }
        // The address is this machine's own: nobody stands between whom a certificate would have to keep out.
        let peer = stream.peer_addr().map_err(FetchError::Connect)?;
        let stream = tls::connect_to_anybody(stream, peer.ip()).await.map_err(FetchError::Connect)?;
        fetch::get_on(stream, &self.host, path).await
    }
}

/// Where a listener is reached from its own machine.
fn reached_at(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn of(gateway: &str) -> Listener {
        let config: Config = format!("gateway: {{{gateway}}}").parse().unwrap();
        Listener::of(&config.gateway)
    }

    #[test]
    fn a_listener_is_reached_over_loopback_or_at_its_own_address() {
        for (listen, host) in [
            ("0.0.0.0:9000", "127.0.0.1:9000"),
            ("'[::]:9000'", "[::1]:9000"),
            ("10.0.0.4:9000", "10.0.0.4:9000"),
            ("localhost:1", "127.0.0.1:1"),
        ] {
            assert_eq!(of(&format!("listen: {listen}")).host, host);
        }
    }

    #[test]
    fn the_admin_listener_is_asked_first_and_in_the_clear() {
        let all = "admin_listen: 0.0.0.0:9001, proxy_protocol: true, tls: {cert: a, key: b}";
        assert_eq!(of(all), Listener { host: "127.0.0.1:9001".into(), over_tls: false, header: None });
        let one = of("proxy_protocol: true, tls: {cert: a, key: b}");
        assert!(one.over_tls && one.header == Some(Header::Taken));
        assert_eq!(of("proxy_protocol: [10.0.0.0/8]").header, Some(Header::Refused));
        assert_eq!(of("listen: 10.0.0.4:1, proxy_protocol: [10.0.0.0/8]").header, Some(Header::Taken));
    }
}
