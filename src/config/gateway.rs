//! Section `gateway`: where requests come in, and how they are spread.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::reader::{FromYaml, Reader};
use super::{Tls, networks};
use crate::addr::Networks;
use crate::protocol::Protocol;

/// Where requests come in, and how they are spread.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gateway {
    /// Where users' requests come in. Default `0.0.0.0:9000`.
    pub listen: SocketAddr,
    /// What encrypts the connections to `listen`. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Networks of proxies that begin every connection to `listen` with a PROXY protocol header, version 1 or 2, that
    /// says who the client is; nobody else may connect. `true` is every network. Default false.
    #[serde(serialize_with = "networks::or_false")]
    pub proxy_protocol: Option<Networks>,
    /// Threads that carry requests; 0 is one per core. Default 0, at most 1024.
    pub workers: usize,
    /// How a dataserver is chosen. Default random.
    pub balance: Balance,
    /// What a dataserver speaks whose heartbeat does not say. Default http1.
    pub upstream_protocol: Protocol,
    /// How many requests of which something was already sent may be sent again.
    pub retry_budget: RetryBudget,
    /// Where the admin paths are served instead of on `listen`. Default none.
    pub admin_listen: Option<SocketAddr>,
    /// Which clients may read the admin paths. Default loopback and private networks.
    pub admin_allow: Networks,
    /// Proxies in front whose word on where a request comes from is passed on. Default none.
    pub trusted_proxies: Networks,
    /// What becomes of a request whose `X-Request-Id` is missing or no good. Default none: make if there is an access
    /// log, else keep.
    pub request_id: Option<Ids>,
    /// The same of `traceparent` (W3C Trace Context). Default keep.
    pub traceparent: Ids,
}

impl Gateway {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let gateway = Self {
            listen: section.value("listen", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9000))),
            tls: Tls::read(section.section("tls")),
            proxy_protocol: read_proxy_protocol(&mut section),
            workers: section.within("workers", 0, 0, 1024),
            balance: section.value("balance", Balance::Random),
            upstream_protocol: section.value("upstream_protocol", Protocol::Http1),
            retry_budget: RetryBudget::read(section.section("retry_budget")),
            admin_listen: section.optional("admin_listen"),
            admin_allow: networks::read(&mut section, "admin_allow")
                .unwrap_or_else(Networks::loopback_and_private),
            trusted_proxies: networks::read(&mut section, "trusted_proxies").unwrap_or_default(),
            request_id: section.optional("request_id"),
            traceparent: section.value("traceparent", Ids::Keep),
        };
        section.finish();
        gateway
    }
}

fn read_proxy_protocol(section: &mut Reader<'_>) -> Option<Networks> {
    const KEY: &str = "proxy_protocol";
    match section.flag(KEY) {
        Some(false) => return None,
        Some(true) => return Some(Networks::all()),
        None => {}
    }
    let senders = networks::read(section, KEY)?;
    if senders.is_empty() {
        section.fault(KEY, "names nobody who may connect: false turns it off".to_owned());
    }
    Some(senders)
}

/// How a dataserver is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Balance {
    /// Any live one, each as likely as another.
    Random,
    /// Of two random live ones the one with fewer requests under way from the same worker.
    P2c,
}

impl FromYaml for Balance {
    const EXPECTED: &'static str = "random or p2c";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "random" => Some(Self::Random),
            "p2c" => Some(Self::P2c),
            _ => None,
        }
    }
}

impl FromYaml for Protocol {
    const EXPECTED: &'static str = "http1 or h2c";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "http1" => Some(Self::Http1),
            "h2c" => Some(Self::H2c),
            _ => None,
        }
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Http1 => "http1",
            Self::H2c => "h2c",
        })
    }
}

/// What becomes of a request without an id, or with one that is no good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// It has none from then on. What is good is kept.
    Keep,
    /// It gets one.
    Make,
}

impl FromYaml for Ids {
    const EXPECTED: &'static str = "keep or make";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "keep" => Some(Self::Keep),
            "make" => Some(Self::Make),
            _ => None,
        }
    }
}

/// A request that a dataserver failed before it answered goes to another one if that is safe; when many fail at
/// once, repeating all of them would only add to the load. What was never sent does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RetryBudget {
    /// Of each hundred requests this many may be repeated. Default 20, at most 100.
    pub percent: usize,
    /// And this many a second in any case. Default 10, at most a million.
    pub per_second: usize,
}

impl RetryBudget {
    fn read(mut section: Reader<'_>) -> Self {
        let budget = Self {
            percent: section.within("percent", 20, 0, 100),
            per_second: section.within("per_second", 10, 0, 1_000_000),
        };
        section.finish();
        budget
    }
}
