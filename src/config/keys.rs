//! A config as keys and values: what another one says differently, and what of that has to wait for a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::{Config, Faults};

/// Keys, and sections of keys, that are read at the start and never again: they say what the process is made of.
pub const FIXED: &[&str] = &[
    "gateway.listen",
    "gateway.workers",
    "gateway.admin_listen",
    "nsq.embedded",
    "nsq.embedded_listen",
    "log.buffer_bytes",
    "log.flush_timeout",
    "log.access.to",
];

/// A key whose value is another one now. Shown as `registry.ttl: 10s → 20s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path.
    pub key: String,
    /// As it could stand in the file.
    pub old: String,
    /// Likewise.
    pub new: String,
}

impl Change {
    /// The key that says whether an NSQ runs inside the gateway.
    pub const EMBEDDED: &str = "nsq.embedded";

    /// It is `auto`, and what follows from that is another thing now.
    pub fn of_embedded(runs: bool) -> Self {
        Self { key: Self::EMBEDDED.to_owned(), old: (!runs).to_string(), new: runs.to_string() }
    }

    /// Another content of the file that a key names; what it is is never shown.
    pub fn of_file(key: &str) -> Self {
        let content = |which: &str| format!("the {which} content of its file");
        Self { key: key.to_owned(), old: content("old"), new: content("new") }
    }

    /// Whether it cannot be made while the gateway runs.
    pub fn needs_restart(&self) -> bool {
        FIXED.iter().any(|fixed| {
            self.key.strip_prefix(fixed).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.old, self.new)
    }
}

impl Config {
    /// Every key with its value, by its path. No value is a secret: those are in files of their own.
    pub fn keys(&self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        // The structs have nothing in them that JSON has not.
        flatten("", &serde_json::to_value(self).unwrap_or_default(), &mut keys);
        keys
    }

    /// What `next` says differently.
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let (old, new) = (self.keys(), next.keys());
        let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let value =
            |of: &BTreeMap<_, _>, key| of.get(key).map_or_else(|| "null".to_owned(), String::to_owned);
        let changes = keys.into_iter().map(|key| Change {
            key: key.clone(),
            old: value(&old, key),
            new: value(&new, key),
        });
        changes.filter(|change| change.old != change.new).collect()
    }

    /// Whether a gateway that runs can go by it.
    ///
    /// # Errors
    /// When nothing says where heartbeats come from, and no NSQ was started inside this gateway.
    pub fn can_follow(&self, runs_embedded: bool) -> Result<(), Faults> {
        if runs_embedded || !self.common.nsqd.is_empty() || !self.common.nsqlookupd.is_empty() {
            return Ok(());
        }
        let message = "an NSQ inside the gateway is started with the gateway and not later; until then common.nsqd or \
                       common.nsqlookupd has to say where heartbeats come from";
        Err(Faults::one("nsq.embedded", message.to_owned()))
    }

    /// The same, with what has to wait for a restart as it is in `running`.
    #[must_use]
    pub fn with_fixed_of(mut self, running: &Self) -> Self {
        self.gateway.listen = running.gateway.listen;
        self.gateway.workers = running.gateway.workers;
        self.gateway.admin_listen = running.gateway.admin_listen;
        self.nsq.embedded = running.nsq.embedded;
        self.nsq.embedded_listen = running.nsq.embedded_listen;
        self.log.buffer_bytes = running.log.buffer_bytes;
        self.log.flush_timeout = running.log.flush_timeout;
        self.log.access.to.clone_from(&running.log.access.to);
        self
    }
}

fn flatten(path: &str, value: &Value, keys: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(section) => match duration(section) {
            Some(duration) => {
                keys.insert(path.to_owned(), humantime::format_duration(duration).to_string());
            }
            None => {
                for (key, value) in section {
                    let dot = if path.is_empty() { "" } else { "." };
                    flatten(&format!("{path}{dot}{key}"), value, keys);
                }
            }
        },
        Value::String(text) => {
            keys.insert(path.to_owned(), text.clone());
        }
        other => {
            keys.insert(path.to_owned(), other.to_string());
        }
    }
}

/// serde makes a mapping of a [`Duration`].
fn duration(section: &serde_json::Map<String, Value>) -> Option<Duration> {
    let (secs, nanos) = (section.get("secs")?.as_u64()?, section.get("nanos")?.as_u64()?);
    Some(Duration::new(secs, u32::try_from(nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(yaml: &str) -> Config {
        yaml.parse().unwrap()
    }

    fn changes(from: &str, to: &str) -> Vec<String> {
        config(from).changes(&config(to)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_changed_is_said_as_it_could_stand_in_the_file() {
        assert_eq!(changes("", "registry: {ttl: 10s}\n# the default"), Vec::<String>::new());
        let to = "
common: {nsqd: ['a:1', 'b:2'], server_addr: 'c:3'}
gateway: {balance: p2c, upstream_protocol: h2c, admin_allow: [loopback, 10.0.0.0/8], tls: {cert: a, key: b}}
registry: {ttl: 1500ms, allow: [private], ejection: {answered_5xx: true}}
nsq: {embedded: true, channel: ch1}
";
        assert_eq!(
            changes("", to),
            [
                "common.nsqd: [] → [\"a:1\",\"b:2\"]",
                "common.server_addr: 127.0.0.1:10001 → c:3",
                "gateway.admin_allow: [\"loopback\",\"private\"] → [\"loopback\",\"10.0.0.0/8\"]",
                "gateway.balance: random → p2c",
                "gateway.tls.cert: null → a",
                "gateway.tls.check_interval: null → 10s",
                "gateway.tls.key: null → b",
                "gateway.upstream_protocol: http1 → h2c",
                "nsq.channel: null → ch1",
                "nsq.embedded: auto → true",
                "registry.allow: null → [\"private\"]",
                "registry.ejection.answered_5xx: false → true",
                "registry.ttl: 10s → 1s 500ms",
            ]
        );
    }

    #[test]
    fn what_is_fixed_stays_as_it_runs() {
        let (running, next) = (
            config(""),
            config(
                "gateway: {listen: '127.0.0.1:1', workers: 3, admin_listen: '127.0.0.1:2'}
nsq: {embedded: true, embedded_listen: {tcp: '127.0.0.1:3', http: '127.0.0.1:4', lookup: '127.0.0.1:5'}}
log: {buffer_bytes: 5000, flush_timeout: 5s, access: {to: a.log, format: json}}
registry: {ttl: 20s}",
            ),
        );
        let (fixed, free): (Vec<_>, Vec<_>) =
            running.changes(&next).into_iter().partition(Change::needs_restart);
        assert_eq!(fixed.len(), 10, "{fixed:?}");
        for key in FIXED {
            assert!(fixed.iter().any(|change| change.key.starts_with(key)), "{key}");
        }
        assert_eq!(running.changes(&next.with_fixed_of(&running)), free);
    }
}
