//! Section `registry`: who may be in the set, and what keeps a dataserver in it.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::reader::Reader;
use super::{Fault, networks};
use crate::addr::Networks;

/// A snapshot is of use for so many TTLs.
const SNAPSHOT_TTLS: u32 = 6;

/// Who may be in the set, and what keeps a dataserver in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registry {
    /// A dataserver silent for longer is not live. Default 10s, from 100ms to 1h.
    pub ttl: Duration,
    /// How often the silent ones are removed from the set. Default 2s, from 10ms to 10min.
    pub sweep_interval: Duration,
    /// How many dataservers there may be; new ones over that are refused. Default 100000, at most a million.
    pub capacity: usize,
    /// How many new ones may join in a second; more are refused until the next. Default 1000, at most a million.
    pub join_rate: usize,
    /// How many may join within a `ttl` and get requests at once. Of a crowd each has to pass a probe first. Default 16,
    /// at most a million.
    pub trusted_joins: usize,
    /// The networks that dataservers may be in; a host name must lead into one. Default none: wherever may be dialled.
    pub allow: Option<Networks>,
    /// The file that the set is kept in, so that a gateway that starts again knows whom to probe. Default none.
    pub snapshot: Option<PathBuf>,
    /// How often it is written. Default 5s, from 100ms to 10min.
    pub snapshot_interval: Duration,
    /// How the gateway asks a dataserver itself whether it is alive.
    pub probe: Probe,
    /// When a dataserver that fails requests gets none for a while.
    pub ejection: Ejection,
}

/// How the gateway asks a dataserver itself whether it is alive: one that it doubts, and all that are silent while
/// heartbeats cannot be heard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// What an HTTP GET asks for; any 2xx is a yes. Default none: that it accepts a connection is enough.
    pub path: Option<String>,
    /// How often one is asked. Default 1s, from 10ms to 10min.
    pub interval: Duration,
    /// How long an answer may take. Default 1s, from 10ms to 1min.
    pub timeout: Duration,
    /// How long a connection must last, of one that broke those of requests. Default 100ms, from 1ms to 1min.
    pub hold: Duration,
    /// How many are asked at the same time. Default 128, at most 10000.
    pub parallel: usize,
    /// One that is silent and fails its probes for so long is evicted even while heartbeats cannot be heard.
    /// Default 1m, from 100ms to 24h.
    pub give_up: Duration,
}

/// When a dataserver that fails requests gets none for a while.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ejection {
    /// So many failures in a row, with no answer in between; 0 is never. Default 5, at most a million.
    pub failures: usize,
    /// For how long the first time; each time after it is twice as long. Default 10s, from 10ms to 24h.
    pub duration: Duration,
    /// The longest. Default 5m, from 10ms to 24h.
    pub max_duration: Duration,
    /// At most this part of the set at a time, in percent. Default 50, at most 100.
    pub percent: usize,
    /// Whether an answered 5xx is a failure, too. Default false.
    pub answered_5xx: bool,
}

impl Registry {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let millis = Duration::from_millis;
        let registry = Self {
            ttl: section.within("ttl", millis(10_000), millis(100), millis(3_600_000)),
            sweep_interval: section.within("sweep_interval", millis(2_000), millis(10), millis(600_000)),
            capacity: section.within("capacity", 100_000, 1, 1_000_000),
            join_rate: section.within("join_rate", 1_000, 1, 1_000_000),
            trusted_joins: section.within("trusted_joins", 16, 0, 1_000_000),
            allow: networks::read(&mut section, "allow"),
            snapshot: section.optional::<String>("snapshot").map(PathBuf::from),
            snapshot_interval: section.within(
                "snapshot_interval",
                millis(5_000),
                millis(100),
                millis(600_000),
            ),
            probe: Probe::read(section.section("probe")),
            ejection: Ejection::read(section.section("ejection")),
        };
        if registry.snapshot.is_some() && registry.snapshot_interval > registry.snapshot_max_age() {
            let message = format!("is longer than {SNAPSHOT_TTLS} ttl, after which a snapshot is not read");
            section.fault("snapshot_interval", message);
        }
        section.finish();
        registry
    }

    /// An older snapshot is not read: too much may have changed.
    pub fn snapshot_max_age(&self) -> Duration {
        self.ttl * SNAPSHOT_TTLS
    }

    /// What is wrong with the place of the snapshot.
    pub(super) fn check_snapshot(&self, faults: &mut Vec<Fault>) {
        let Some(path) = &self.snapshot else { return };
        if let Err(error) = try_to_write_beside(path) {
            faults.push(Fault::new(
                "registry.snapshot",
                format!("{} cannot be written: {error}", path.display()),
            ));
        }
    }
}

/// It is replaced, never written over: its directory matters.
fn try_to_write_beside(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is not a file"));
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let mut trial = name.to_owned();
    trial.push(format!(".{:016x}", rand::random::<u64>()));
    let trial = path.with_file_name(trial);
    OpenOptions::new().write(true).create_new(true).open(&trial)?;
    fs::remove_file(trial)
}

impl Probe {
    fn read(mut section: Reader<'_>) -> Self {
        let millis = Duration::from_millis;
        let path = section.optional::<String>("path");
        if let Some(path) = path.as_deref().filter(|path| !is_path(path)) {
            section.fault("path", format!("{path:?} is not the path of a URL"));
        }
        let probe = Self {
            path,
            interval: section.within("interval", millis(1_000), millis(10), millis(600_000)),
            timeout: section.within("timeout", millis(1_000), millis(10), millis(60_000)),
            hold: section.within("hold", millis(100), millis(1), millis(60_000)),
            parallel: section.within("parallel", 128, 1, 10_000),
            give_up: section.within("give_up", millis(60_000), millis(100), millis(86_400_000)),
        };
        section.finish();
        probe
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.parse::<http::uri::PathAndQuery>().is_ok()
}

impl Ejection {
    fn read(mut section: Reader<'_>) -> Self {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
        let ejection = Self {
            failures: section.within("failures", 5, 0, 1_000_000),
            duration: section.within("duration", Duration::from_secs(10), least, most),
            max_duration: section.within("max_duration", Duration::from_secs(300), least, most),
            percent: section.within("percent", 50, 0, 100),
            answered_5xx: section.value("answered_5xx", false),
        };
        section.finish();
        ejection
    }
}
