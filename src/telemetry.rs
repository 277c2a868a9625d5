//! Logs: to stderr, as text for people or JSON for machines, filtered by `RUST_LOG` or `log.filter`.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config;
use crate::lines::{self, Destination, Lines, Lost, Notice, Settings, Writer};

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
#[derive(Clone, Default)]
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

/// The log of this process. A cheap handle.
#[derive(Clone)]
pub struct Log {
    filter: LogFilter,
    lines: Lines,
}

impl Log {
    /// What changes which events are logged.
    pub fn filter(&self) -> LogFilter {
        self.filter.clone()
    }

    /// A line that is no event: the last word on a command line. It ends with a line feed.
    pub fn say(&self, line: &str) {
        self.lines.push(line.as_bytes());
    }

    /// Waits until the lines so far are written or lost, and no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let _ = self.lines.flush(limit); // what is not read by then never will be
    }

    /// How many lines were lost.
    pub fn lost(&self) -> Lost {
        self.lines.lost()
    }
}

/// Starts logging of what `RUST_LOG` says, or if that is not set or empty, of what `log.filter` says. Libraries that log
/// through the `log` crate are included, and panics. The lines are to be [`write`](write())n by a thread of their own.
///
/// # Errors
/// When the filter cannot be read, there is no stderr, or logging was started before.
pub fn init(format: LogFormat, config: &config::Log) -> anyhow::Result<(Log, Writer)> {
    let from_env = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = match &from_env {
        Some(text) => {
            EnvFilter::try_new(text).map_err(|error| anyhow::anyhow!("RUST_LOG={text:?}: {error}"))?
        }
        None => filter(&config.filter)?,
    };
    let (filter, handle) = reload::Layer::new(filter);
    let settings = Settings { most_bytes: config.buffer_bytes, rest: Duration::ZERO };
    let (lines, writer) = lines::to(&Destination::Stderr, settings)?;
    // A line that cannot be written is lost. To say so would be to write to the same place.
    let events = fmt::layer().log_internal_errors(false).with_writer(Arc::new(lines.clone()));
    let events = match format {
        LogFormat::Text => events.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => {
            events.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let started = tracing_subscriber::registry().with(filter).with(events).try_init();
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    // The standard hook writes to stderr itself, and waits for whoever reads it.
    panic::set_hook(Box::new(log_panic));
    let filter = LogFilter { handle: from_env.is_none().then_some(handle) };
    Ok((Log { filter, lines }, writer))
}

/// Writes the lines, for as long as the process lives.
pub fn write(writer: Writer) {
    writer.run(|notice| match notice {
        Notice::Lost(lines) => tracing::warn!(
            lines,
            "log lines were lost: whoever reads them was too slow or had stopped, or there was no room to write them"
        ),
        // There is nowhere to say it.
        Notice::Failing(_) => {}
    });
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, location) = (thread.name(), panic.location().map(tracing::field::display));
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let why = text.or_else(|| Some(payload.downcast_ref::<String>()?.as_str())).unwrap_or("for no reason");
    tracing::error!(thread, location, backtrace, "a thread panicked: {why}");
}
