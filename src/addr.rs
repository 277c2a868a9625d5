//! The address of a dataserver: what a heartbeat carries, what the registry is keyed by, what the proxy dials.
//!
//! An address comes from whoever may publish to the topic, so it is never trusted: it is bounded,
//! normalised (one dataserver has one spelling), and those that a gateway must never dial are refused
//! here and once more after a host name was resolved.

mod dialable;
mod networks;
mod own;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

pub use dialable::Dialable;
pub use networks::{Network, Networks};
pub use own::OwnListeners;

/// Longest address accepted, in bytes: a host name of 253 (RFC 1035 §3.1), a colon, a port.
pub const MAX_LEN: usize = 253 + 1 + 5;

/// `host:port` in its normal form: lower case, IPv6 in brackets and shortened, no leading zeros.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    text: Arc<str>,
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Target {
    Ip(IpAddr, u16),
    Name(u16),
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AddrError {
    /// Nothing in it.
    #[error("is empty")]
    Empty,
    /// Longer than [`MAX_LEN`].
    #[error("is longer than {MAX_LEN} bytes")]
    TooLong,
    /// A byte that no address holds.
    #[error("holds a character that no address has")]
    Characters,
    /// No port, port 0, or a port over 65535.
    #[error("has no port between 1 and 65535")]
    Port,
    /// Not an IP address and not a host name (RFC 1123 §2.1).
    #[error("has a host that is neither an IP address nor a host name")]
    Host,
    /// An address that no dataserver can have: unspecified, multicast, broadcast or link-local.
    #[error("is unspecified, multicast, broadcast or link-local")]
    Forbidden,
}

impl Addr {
    /// The normal form, for logs, labels and answers.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The socket address, if the host is an IP address and needs no resolving.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.target {
            Target::Ip(ip, port) => Some(SocketAddr::new(ip, port)),
            Target::Name(_) => None,
        }
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        match self.target {
            Target::Ip(_, port) | Target::Name(port) => port,
        }
    }
}

/// Whether a dataserver can live at this IP address. Asked again for what a host name resolves to,
/// or a name would be a way around it (169.254.169.254 is where clouds keep their secrets).
pub fn is_dialable(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // 0.0.0.0/8 is "this network" (RFC 1122 §3.2.1.3), and Linux takes it for the local host.
            let [first, ..] = ip.octets();
            first != 0 && !ip.is_multicast() && !ip.is_broadcast() && !ip.is_link_local()
        }
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_unicast_link_local(),
    }
}

impl FromStr for Addr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        if text.is_empty() {
            return Err(AddrError::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(AddrError::TooLong);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'))
        {
            return Err(AddrError::Characters);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddrError::Port)?;
        let port = parse_port(port)?;
        match parse_host(host)? {
            Some(ip) if !is_dialable(ip) => Err(AddrError::Forbidden),
            Some(ip) => {
                let ip = ip.to_canonical();
                let text = SocketAddr::new(ip, port).to_string().into();
                Ok(Self { text, target: Target::Ip(ip, port) })
            }
            None => {
                let host = host.to_ascii_lowercase();
                let text = format!("{host}:{port}").into();
                Ok(Self { text, target: Target::Name(port) })
            }
        }
    }
}

fn parse_port(text: &str) -> Result<u16, AddrError> {
    // `u16::from_str` takes a leading plus sign, which is no port.
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AddrError::Port);
    }
    text.parse().ok().filter(|&port| port != 0).ok_or(AddrError::Port)
}

/// The IP address, or `None` for a well-formed host name.
fn parse_host(host: &str) -> Result<Option<IpAddr>, AddrError> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or(AddrError::Host)?;
        return inner.parse::<Ipv6Addr>().map(|ip| Some(ip.into())).map_err(|_| AddrError::Host);
    }
    if let Ok(ip) = host.parse() {
        // An IPv6 address without brackets does not say where it ends and the port begins.
        return if matches!(ip, IpAddr::V4(_)) { Ok(Some(ip)) } else { Err(AddrError::Host) };
    }
    is_host_name(host).then_some(None).ok_or(AddrError::Host)
}

fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_is_fine = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // Resolvers read `127.1`, `2130706433` and `0x7f.1` as IPv4, past the checks above; no top-level
    // domain begins with a digit (RFC 3696 §2), so such a last label is no name.
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label_is_fine) && !last.starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, AddrError> {
        text.parse::<Addr>().map(|addr| addr.to_string())
    }

    #[test]
    fn addresses_have_one_spelling() {
        for (text, normal) in [
            ("127.0.0.1:10001", "127.0.0.1:10001"),
            ("127.0.0.1:010001", "127.0.0.1:10001"),
            ("[::1]:10001", "[::1]:10001"),
            ("[0:0:0:0:0:0:0:1]:10001", "[::1]:10001"),
            ("[::ffff:10.0.0.7]:80", "10.0.0.7:80"),
            ("DB1.Internal:10001", "db1.internal:10001"),
            ("db_1:10001", "db_1:10001"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(normal), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        use AddrError::{Characters, Empty, Forbidden, Host, Port, TooLong};
        for (text, why) in [
            ("", Empty),
            ("127.0.0.1", Port),
            ("127.0.0.1:", Port),
            ("127.0.0.1:0", Port),
            ("127.0.0.1:65536", Port),
            ("127.0.0.1:-1", Port),
            (":10001", Host),
            ("::1:10001", Host),
            ("[::1:10001", Host),
            ("[fe80::1%eth0]:1", Characters),
            ("a@b:80", Characters),
            ("http://a:80", Characters),
            ("a b:80", Characters),
            ("a:80\r\n", Characters),
            ("a\0:80", Characters),
            ("ä:80", Characters),
            ("-a:80", Host),
            ("a..b:80", Host),
            ("127.1:80", Host),
            ("2130706433:80", Host),
            ("0x7f.0x1:80", Host),
            ("0.0.0.0:80", Forbidden),
            ("0.0.0.1:80", Forbidden),
            ("[::]:80", Forbidden),
            ("224.0.0.1:80", Forbidden),
            ("[ff02::1]:80", Forbidden),
            ("255.255.255.255:80", Forbidden),
            ("169.254.169.254:80", Forbidden),
            ("[::ffff:169.254.169.254]:80", Forbidden),
            ("[fe80::1]:80", Forbidden),
        ] {
            assert_eq!(parse(text), Err(why), "{text:?}");
        }
        assert_eq!(parse(&format!("{}:1", "a".repeat(300))), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_that_parses_to_itself_or_an_error(text in ".{0,300}") {
            if let Ok(addr) = text.parse::<Addr>() {
                prop_assert!(addr.as_str().len() <= MAX_LEN);
                let again = addr.as_str().parse::<Addr>();
                prop_assert_eq!(again, Ok(addr));
            }
        }

        #[test]
        fn an_address_near_the_real_ones_parses_to_itself_or_an_error(text in "[a-z0-9.\\[\\]:-]{1,40}:[0-9]{1,6}") {
            if let Ok(addr) = text.parse::<Addr>() {
                prop_assert!(addr.port() != 0);
                let again = addr.as_str().parse::<Addr>();
                prop_assert_eq!(again, Ok(addr));
            }
        }

        #[test]
        fn an_ip_address_that_is_not_dialable_is_never_an_address(ip: std::net::IpAddr, port in 1u16..) {
            let parsed = std::net::SocketAddr::new(ip, port).to_string().parse::<Addr>();
            prop_assert_eq!(parsed.is_ok(), is_dialable(ip));
        }
    }
}
