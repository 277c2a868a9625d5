//! Logs: to stderr, as text for people or JSON for machines, filtered by `RUST_LOG` or `log.filter`.

use std::io::IsTerminal;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// tokio-nsq logs each step of each connection at info or error; the `nsq` room logs what matters of it. A filter that
/// names it is the stronger.
const QUIET: &str = "tokio_nsq=off";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Changes which events are logged, while the process runs. A cheap handle.
#[derive(Clone)]
pub struct LogFilter {
    /// None where `RUST_LOG` says it.
    handle: Option<reload::Handle<EnvFilter, Registry>>,
}

impl LogFilter {
    /// From now on these are logged, in the language of `RUST_LOG`. Returns whether it is so: not where that is set.
    ///
    /// # Errors
    /// When the filter cannot be read.
    pub fn set(&self, text: &str) -> Result<bool, ParseError> {
        let filter = filter(text)?;
        // It fails only once logging has ended.
        Ok(self.handle.as_ref().is_some_and(|handle| handle.reload(filter).is_ok()))
    }
}

fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("{QUIET},{text}"))
}

/// Starts logging of what `RUST_LOG` says, or if that is not set or empty, of what `log_filter` says. Libraries that log
/// through the `log` crate are included.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn init(format: LogFormat, log_filter: &str) -> anyhow::Result<LogFilter> {
    let from_env = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = match &from_env {
        Some(text) => {
            EnvFilter::try_new(text).map_err(|error| anyhow::anyhow!("RUST_LOG={text:?}: {error}"))?
        }
        None => filter(log_filter)?,
    };
    let (filter, handle) = reload::Layer::new(filter);
    // A line that cannot be written is lost. To say so would be to write to the same place, and that panics.
    let lines = fmt::layer().log_internal_errors(false).with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(LogFilter { handle: from_env.is_none().then_some(handle) })
}
