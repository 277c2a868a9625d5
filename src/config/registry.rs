//! Section `registry`: how long a dataserver lives without a heartbeat.

use std::time::Duration;

use super::reader::Reader;

/// How long a dataserver lives without a heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// A dataserver silent for longer is not live. Default 10s, from 100ms to 1h.
    pub ttl: Duration,
    /// How often the silent ones are removed from the set. Default 2s, from 10ms to 10min.
    pub sweep_interval: Duration,
    /// How many dataservers there may be; new ones over that are refused. Default 100000, at most a million.
    pub capacity: usize,
}

impl Registry {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let millis = Duration::from_millis;
        let registry = Self {
            ttl: section.within("ttl", millis(10_000), millis(100), millis(3_600_000)),
            sweep_interval: section.within("sweep_interval", millis(2_000), millis(10), millis(600_000)),
            capacity: section.within("capacity", 100_000, 1, 1_000_000),
        };
        section.finish();
        registry
    }
}
