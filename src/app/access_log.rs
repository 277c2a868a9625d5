//! Where the lines of the access log go, and the thread that writes them.

use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::config;
use crate::lines::{self, Lines, Notice, Settings};
use crate::metrics::Metrics;

/// A busy log is written so often.
const REST: Duration = Duration::from_millis(100);

/// The access log, if there is to be one.
pub(super) struct AccessLog {
    lines: Option<Lines>,
    flush_timeout: Duration,
}

impl AccessLog {
    /// Opens what `log.access.to` names.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn start(config: &config::Log, metrics: &Metrics) -> anyhow::Result<Self> {
        let mut log = Self { lines: None, flush_timeout: config.flush_timeout };
        if let Some(to) = &config.access.to {
            let settings = Settings { most_bytes: config.buffer_bytes, rest: REST };
            let (lines, writer) = lines::to(to, settings).context("log.access.to cannot be opened")?;
            thread::Builder::new().name("access-log".to_owned()).spawn(|| writer.run(tell))?;
            metrics.count_lost_lines("access", lines.lost());
            log.lines = Some(lines);
        }
        Ok(log)
    }

    /// Where lines go in.
    pub(super) fn lines(&self) -> Option<Lines> {
        self.lines.clone()
    }

    /// Waits until the lines so far are written or lost, and no longer than `log.flush_timeout`.
    pub(super) fn flush(&self) {
        if let Some(lines) = &self.lines {
            let _ = lines.flush(self.flush_timeout); // what is not written by then never will be
        }
    }
}

fn tell(notice: Notice) {
    match notice {
        Notice::Lost(lines) => {
            tracing::warn!(
                lines,
                "lines of the access log were lost: they could not be written, or not fast enough"
            );
        }
        Notice::Failing(error) => tracing::warn!(%error, "the access log cannot be written"),
    }
}
