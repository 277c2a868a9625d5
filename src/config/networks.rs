//! Networks of clients or proxies, as lists in the file.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_yaml::Value;

use super::reader::{FromYaml, Reader};

/// A list of networks: each is `loopback`, `private`, an address or a CIDR. Empty, it contains nobody.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Networks(Vec<Network>);

#[derive(Debug, Clone, PartialEq)]
enum Network {
    Loopback,
    Private,
    Cidr(IpNet),
}

impl Networks {
    pub(super) fn read(section: &mut Reader<'_>, key: &str, default: Self) -> Self {
        section.list(key).map_or(default, Self)
    }

    pub(super) fn read_optional(section: &mut Reader<'_>, key: &str) -> Option<Self> {
        section.list(key).map(Self)
    }

    /// This machine, and networks that the internet has no way into.
    pub(super) fn loopback_and_private() -> Self {
        Self(vec![Network::Loopback, Network::Private])
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

/// RFC 1918, RFC 4193, and link-local.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

impl FromYaml for Network {
    const EXPECTED: &'static str = "loopback, private, an IP address or a network such as 10.0.0.0/8";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "loopback" => Some(Self::Loopback),
            "private" => Some(Self::Private),
            text => {
                text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(Self::Cidr)
            }
        }
    }
}
