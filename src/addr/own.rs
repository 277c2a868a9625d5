//! Telling the gateway's own listeners from dataservers.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Where this gateway listens. A request forwarded to one of these would come back.
#[derive(Debug, Clone, Default)]
pub struct OwnListeners(Vec<SocketAddr>);

impl OwnListeners {
    /// The addresses that were really bound.
    pub fn new(bound: Vec<SocketAddr>) -> Self {
        Self(bound)
    }

    /// Whether a connection to `target` would reach this gateway.
    pub fn contains(&self, target: SocketAddr) -> bool {
        self.0.iter().any(|own| {
            own.port() == target.port()
                && (own.ip() == target.ip() || (own.ip().is_unspecified() && is_local(target.ip())))
        })
    }
}

/// Only an address of this host can be bound; asking the kernel needs no list of interfaces that ages.
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listeners: &[&str], target: &str) -> bool {
        let listeners = listeners.iter().map(|text| text.parse().unwrap()).collect();
        OwnListeners::new(listeners).contains(target.parse().unwrap())
    }

    #[test]
    fn a_listener_on_every_address_is_reached_at_any_of_them() {
        assert!(own(&["0.0.0.0:9000"], "127.0.0.1:9000"));
        assert!(own(&["0.0.0.0:9000"], "127.9.9.9:9000"));
        assert!(!own(&["0.0.0.0:9000"], "127.0.0.1:9001"));
        // TEST-NET-1 (RFC 5737) is nobody's.
        assert!(!own(&["0.0.0.0:9000"], "192.0.2.1:9000"));
    }

    #[test]
    fn a_listener_on_one_address_is_reached_there_only() {
        assert!(own(&["127.0.0.2:9000", "127.0.0.1:9001"], "127.0.0.1:9001"));
        assert!(!own(&["127.0.0.2:9000"], "127.0.0.1:9000"));
    }
}
