//! Networks of clients, proxies and dataservers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A list of networks. Empty, it contains nobody.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Networks(Vec<Network>);

/// One of them: `loopback`, `private`, an address or a CIDR.
#[derive(Debug, Clone, PartialEq)]
pub enum Network {
    /// This machine.
    Loopback,
    /// RFC 1918, RFC 4193, and link-local.
    Private,
    /// Any other.
    Cidr(IpNet),
}

impl Networks {
    /// Those of a list.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// This machine, and networks that the internet has no way into.
    pub fn loopback_and_private() -> Self {
        Self(vec![Network::Loopback, Network::Private])
    }

    /// Every address.
    pub fn all() -> Self {
        // The default of each is its whole space.
        Self(vec![Network::Cidr(Ipv4Net::default().into()), Network::Cidr(Ipv6Net::default().into())])
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Network> {
        self.0.iter()
    }

    /// Whether this address is in one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| match network {
            Network::Loopback => ip.is_loopback(),
            Network::Private => is_private(ip),
            Network::Cidr(net) => net.contains(&ip),
        })
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => f.write_str("loopback"),
            Self::Private => f.write_str("private"),
            Self::Cidr(net) => net.fmt(f),
        }
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "private" => Ok(Self::Private),
            _ => {
                let net = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
                net.map(Self::Cidr).ok_or("is not loopback, private, an IP address or a network")
            }
        }
    }
}
