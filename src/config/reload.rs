//! Section `reload`: how a change of this file is noticed.

use std::time::Duration;

use serde::Serialize;

use super::reader::Reader;

/// How a change of this file is noticed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reload {
    /// How often the file, and that of the heartbeats' key, is read to see whether it has changed. Default 1s, from 10ms
    /// to 24h.
    pub check_interval: Duration,
}

impl Reload {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(24 * 3600));
        let reload =
            Self { check_interval: section.within("check_interval", Duration::from_secs(1), least, most) };
        section.finish();
        reload
    }
}
