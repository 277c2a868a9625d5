//! Section `nsq`: how heartbeats are read, and the NSQ that can run inside the gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_yaml::Value;

use super::reader::{FromYaml, Reader};
use super::{Fault, Faults};
use crate::key::Key;

/// Keys of heartbeats at most: for each that anybody sends all may have to be tried.
const MOST_KEYS: usize = 4;

/// How heartbeats are read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nsq {
    /// The channel to read from. Default none: one of this gateway's own, which vanishes with it.
    /// Gateways that share a channel share its heartbeats, so that each sees only a part of them.
    pub channel: Option<String>,
    /// How often the nsqlookupds are asked which nsqds have the topic, and each nsqd what time it is and who reads
    /// the channel. Default 5s, from 100ms to 10min.
    pub lookup_interval: Duration,
    /// A connection to an nsqd, its or an nsqlookupd's answer over HTTP, or its acknowledgement. Default 2s, from
    /// 100ms to 1min.
    pub connect_timeout: Duration,
    /// The longest wait before an nsqd that was lost is tried again. Default 3s, from 100ms to 10min.
    pub reconnect_max: Duration,
    /// An nsqd that sends nothing for longer, not even the heartbeat of its own that it is asked for twice
    /// in this time, is taken for gone. Default 5s, from 2s to 2min.
    pub silence_timeout: Duration,
    /// The files with the keys of heartbeats: a dataserver signs with the first, and a gateway takes what is signed with any
    /// of them and nothing else. One, or a list of at most 4. Default none: heartbeats are not signed.
    pub heartbeat_key_file: Vec<PathBuf>,
    /// How far the clock of who signs a heartbeat may be from the gateway's. Default 1m, from 1s to 1h.
    pub clock_tolerance: Duration,
    /// Whether NSQ runs inside the gateway. Default auto: when no nsqd and no nsqlookupd is configured.
    pub embedded: Embedded,
    /// Where the NSQ inside the gateway listens.
    pub embedded_listen: EmbeddedListen,
}

impl Nsq {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let millis = Duration::from_millis;
        let channel = section.optional::<String>("channel");
        if let Some(channel) = channel.as_deref().filter(|channel| !is_valid_name(channel)) {
            section.fault("channel", format!("{channel:?} is not a channel name ({NAME_RULE})"));
        }
        let key_files = section.list::<String>("heartbeat_key_file").unwrap_or_default();
        if key_files.len() > MOST_KEYS {
            section.fault("heartbeat_key_file", format!("names more than {MOST_KEYS} files"));
        }
        let nsq = Self {
            channel,
            lookup_interval: section.within("lookup_interval", millis(5_000), millis(100), millis(600_000)),
            connect_timeout: section.within("connect_timeout", millis(2_000), millis(100), millis(60_000)),
            reconnect_max: section.within("reconnect_max", millis(3_000), millis(100), millis(600_000)),
            silence_timeout: section.within("silence_timeout", millis(5_000), millis(2_000), millis(120_000)),
            heartbeat_key_file: key_files.into_iter().take(MOST_KEYS).map(PathBuf::from).collect(),
            clock_tolerance: section.within(
                "clock_tolerance",
                millis(60_000),
                millis(1_000),
                millis(3_600_000),
            ),
            embedded: section.value("embedded", Embedded::Auto),
            embedded_listen: EmbeddedListen::read(section.section("embedded_listen")),
        };
        section.finish();
        nsq
    }

    /// What is wrong with the files that it names.
    pub(super) fn check_files(&self, faults: &mut Vec<Fault>) {
        if let Err(of_keys) = self.heartbeat_keys() {
            faults.extend(of_keys.iter().cloned());
        }
    }

    /// The keys of heartbeats; none if they need not be signed.
    ///
    /// # Errors
    /// What is wrong with each file that holds none.
    pub fn heartbeat_keys(&self) -> Result<Vec<Key>, Faults> {
        let (files, mut keys, mut faults) = (&self.heartbeat_key_file, Vec::new(), Vec::new());
        for (n, file) in files.iter().enumerate() {
            let place = if files.len() > 1 { format!("[{n}]") } else { String::new() };
            match Key::load(file) {
                Ok(key) => keys.push(key),
                Err(why) => faults.push(Fault::new(format!("nsq.heartbeat_key_file{place}"), why)),
            }
        }
        Faults::some(faults).map_or(Ok(keys), Err)
    }
}

/// Whether NSQ runs inside the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Embedded {
    /// When no nsqd and no nsqlookupd is configured.
    #[serde(rename = "auto")]
    Auto,
    /// Always.
    #[serde(rename = "true")]
    On,
    /// Never.
    #[serde(rename = "false")]
    Off,
}

impl FromYaml for Embedded {
    const EXPECTED: &'static str = "auto, true or false";

    fn from_yaml(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(true) => Some(Self::On),
            Value::Bool(false) => Some(Self::Off),
            Value::String(text) if text == "auto" => Some(Self::Auto),
            _ => None,
        }
    }
}

/// Where the NSQ inside the gateway listens. Whoever can reach these can announce dataservers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EmbeddedListen {
    /// nsqd's protocol. Default `127.0.0.1:4150`.
    pub tcp: SocketAddr,
    /// nsqd's HTTP. Default `127.0.0.1:4151`.
    pub http: SocketAddr,
    /// nsqlookupd's HTTP. Default `127.0.0.1:4161`.
    pub lookup: SocketAddr,
}

impl EmbeddedListen {
    fn read(mut section: Reader<'_>) -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listen = Self {
            tcp: section.value("tcp", loopback(4150)),
            http: section.value("http", loopback(4151)),
            lookup: section.value("lookup", loopback(4161)),
        };
        section.finish();
        listen
    }
}

/// What NSQ takes for the name of a topic or a channel, in words.
pub(super) const NAME_RULE: &str = "1 to 64 of letters, digits, . _ -, and an optional #ephemeral";

/// Whether NSQ takes this for the name of a topic or a channel.
pub(super) fn is_valid_name(name: &str) -> bool {
    let stem = name.strip_suffix("#ephemeral").unwrap_or(name);
    name.len() <= 64
        && !stem.is_empty()
        && stem.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
