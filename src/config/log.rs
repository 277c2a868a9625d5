//! Section `log`: what is written, and where.

use std::time::Duration;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

use super::AccessLog;
use super::reader::Reader;

/// What is written, and where.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// Which events are logged, in the language of `RUST_LOG`, which counts instead where it is set. Default `info`.
    pub filter: String,
    /// Bytes of lines that wait while whoever reads them is slow; over it, lines are lost and counted. Default 1048576,
    /// from 4096 to 1073741824.
    pub buffer_bytes: usize,
    /// How long the end of the process waits for the last lines to be read. Default 1s, at most 1min.
    pub flush_timeout: Duration,
    /// A line for each request. Default none.
    pub access: AccessLog,
}

impl Log {
    pub(super) fn read(mut section: Reader<'_>) -> Self {
        let default = "info";
        let mut filter = section.value("filter", default.to_owned());
        if let Err(error) = EnvFilter::try_new(&filter) {
            section.fault("filter", format!("{filter:?} is not a filter: {error}"));
            default.clone_into(&mut filter);
        }
        let (none, most) = (Duration::ZERO, Duration::from_secs(60));
        let log = Self {
            filter,
            buffer_bytes: section.within("buffer_bytes", 1_048_576, 4_096, 1 << 30),
            flush_timeout: section.within("flush_timeout", Duration::from_secs(1), none, most),
            access: AccessLog::read(section.section("access")),
        };
        section.finish();
        log
    }
}
