//! Section `common`: the Go system's config file, key by key.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_yaml::Value;

use super::reader::{FromYaml, Reader};
use crate::addr::{Addr, AddrError};

/// What the Go system's config file holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Common {
    /// How often a dataserver announces itself. Whole seconds in the file. Default 5.
    pub heart_beat_time: Duration,
    /// The HTTP sides of the nsqlookupds to ask which nsqds have the topic. Default none.
    pub nsqlookupd: Vec<Endpoint>,
    /// The TCP sides of the nsqds: a dataserver publishes to a random one, the gateway reads all. Default none.
    pub nsqd: Vec<Endpoint>,
    /// The topic of the heartbeats. Default `data_server_addr`.
    pub server_topic: String,
    /// Where the sample dataserver listens, and what it announces. Default `127.0.0.1:10001`.
    pub server_addr: ServerAddr,
}

impl Common {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let seconds = section.within("heart_beat_time", 5usize, 1, 3600);
        let common = Self {
            heart_beat_time: Duration::from_secs(seconds as u64),
            nsqlookupd: section
                .sections("nsqlookupd", NSQLOOKUPD, read_nsqlookupd)
                .into_iter()
                .flatten()
                .collect(),
            nsqd: section.list("nsqd").unwrap_or_default(),
            server_topic: read_topic(&mut section),
            server_addr: read_server_addr(&mut section),
        };
        // The Go system never read nsqadmin either; files that have it stay good.
        let mut nsqadmin = section.section("nsqadmin");
        nsqadmin.optional::<String>("name");
        nsqadmin.optional::<String>("addr");
        nsqadmin.optional::<u16>("port");
        nsqadmin.finish();
        section.finish();
        common
    }
}

/// What one looks like, for whoever has written it as something else.
const NSQLOOKUPD: &str = "a mapping such as {addr: 10.0.0.1, http_port: 4161}";

fn read_nsqlookupd(mut section: Reader<'_>) -> Option<Endpoint> {
    section.optional::<String>("name");
    section.optional::<u16>("tcp_port"); // where nsqds register; a reader has no use for it
    let port = section.within("http_port", 4161u16, 1, u16::MAX);
    let addr = section.optional::<String>("addr");
    let endpoint = match &addr {
        None => {
            section.fault("addr", "is missing".to_owned());
            None
        }
        Some(host) => {
            let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            let endpoint = format!("{bracketed}:{port}").parse().ok();
            if endpoint.is_none() {
                section.fault("addr", format!("{host:?} is not an IP address or a host name"));
            }
            endpoint
        }
    };
    section.finish();
    endpoint
}

fn read_topic(section: &mut Reader<'_>) -> String {
    const DEFAULT: &str = "data_server_addr";
    let topic = section.value("server_topic", DEFAULT.to_owned());
    if super::nsq::is_valid_name(&topic) {
        return topic;
    }
    section.fault("server_topic", format!("{topic:?} is not a topic name ({})", super::nsq::NAME_RULE));
    DEFAULT.to_owned()
}

fn read_server_addr(section: &mut Reader<'_>) -> ServerAddr {
    let default = ServerAddr { host: "127.0.0.1".to_owned(), port: 10001 };
    let Some(text) = section.optional::<String>("server_addr") else { return default };
    text.parse().unwrap_or_else(|error| {
        section.fault("server_addr", format!("{text:?} {error}"));
        default
    })
}

/// Where a dataserver listens, and what it announces: an address that gateways can reach it at, though its
/// port may be 0 for one that the system picks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddr {
    host: String,
    port: u16,
}

impl ServerAddr {
    /// The port that is asked for; 0 for any.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl FromStr for ServerAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        let any_port = text.strip_suffix(":0");
        let addr: Addr = any_port.map_or(text.to_owned(), |host| format!("{host}:1")).parse()?;
        let (host, _) = addr.as_str().rsplit_once(':').ok_or(AddrError::Port)?;
        Ok(Self { host: host.to_owned(), port: if any_port.is_some() { 0 } else { addr.port() } })
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Serialize for ServerAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A TCP endpoint that is connected to: a host name or an IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same host at another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self::new(&self.host, port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => Self::new(&addr.ip().to_string(), addr.port()),
            SocketAddr::V6(addr) => Self::new(&format!("[{}]", addr.ip()), addr.port()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host_is_fine = match bare {
            Some(ipv6) => ipv6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                (1..=253).contains(&host.len())
                    && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            }
        };
        let port_is_fine = port.bytes().all(|b| b.is_ascii_digit()); // `parse` takes a leading plus sign
        let port = port.parse().ok().filter(|&port| port != 0 && port_is_fine).ok_or(())?;
        if host_is_fine { Ok(Self::new(host, port)) } else { Err(()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromYaml for Endpoint {
    const EXPECTED: &'static str = "HOST:PORT";

    fn from_yaml(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}
