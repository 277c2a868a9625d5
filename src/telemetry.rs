//! Logs: to stderr, as text for people or JSON for machines, filtered by `RUST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// tokio-nsq logs each step of each connection at info or error; the `nsq` room logs what matters of it.
const DEFAULT_FILTER: &str = "info,tokio_nsq=off";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging. Libraries that log through the `log` crate are included.
///
/// # Errors
/// When `RUST_LOG` cannot be read, or logging was started before.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).map_err(|error| anyhow::anyhow!("RUST_LOG={filter:?}: {error}"))?
        }
        _ => EnvFilter::new(DEFAULT_FILTER),
    };
    // A line that cannot be written is lost. To say so would be to write to the same place, and that panics.
    let logs = tracing_subscriber::fmt().log_internal_errors(false);
    let logs = logs.with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => {
            logs.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}
