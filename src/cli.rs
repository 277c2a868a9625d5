//! What both binaries do on the command line: read it, start, stop on a signal, end with the right code.

mod packaging;

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use packaging::Packaging;

use crate::config::{self, Faults};
use crate::shutdown::{Hangups, Signals};
use crate::telemetry::{self, Log, LogFormat};

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIG: u8 = 78;

/// The exit code after a second signal.
const CUT_OFF: i32 = 1;

/// What has not ended with everything else may still take so long: a name that is looked up or a file that is read, which
/// nobody waits for any more, and which nothing can break off.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

/// Threads for the control work: heartbeats, the sweep, admin requests. The data plane has threads of its own.
const CONTROL_THREADS: usize = 2;

/// Reads the command line. `--help` and `--version` end well, what cannot be read with code 1.
///
/// # Errors
/// The code to end with.
pub fn parse<A: Parser>() -> Result<A, ExitCode> {
    A::try_parse().map_err(|error| {
        let _ = error.print(); // a closed terminal changes nothing
        if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    })
}

/// Says what is wrong with a config file, and where, a line each.
pub fn bad_config(file: &Path, faults: &Faults) -> ExitCode {
    for fault in faults.iter() {
        let line = fault.line.map(|line| format!("{line}:")).unwrap_or_default();
        let _ = writeln!(io::stderr(), "{}:{line} {fault}", file.display()); // nobody need read it
    }
    ExitCode::from(BAD_CONFIG)
}

/// Starts logging and a control runtime, runs `main` until a signal or an error, and says how it ended. A second signal
/// ends the process at once.
pub fn run<F, E>(
    log_format: LogFormat,
    log: &config::Log,
    main: impl FnOnce(CancellationToken, Log) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let flush_timeout = log.flush_timeout;
    let log = match start_logging(log_format, log) {
        Ok(log) => log,
        Err(error) => return failed(&error),
    };
    let failed_later = |error: &dyn Display| {
        log.say(&format!("error: {error:#}\n"));
        ExitCode::FAILURE
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let code = match builder.worker_threads(CONTROL_THREADS).thread_name("control").enable_all().build() {
        Ok(runtime) => {
            let stop = CancellationToken::new();
            let ended = runtime.block_on(async {
                let signalled = tokio::spawn(stop_when_signalled(stop.clone(), log.clone(), flush_timeout));
                let ended = main(stop, log.clone()).await;
                signalled.abort();
                ended
            });
            // To drop it would wait without a limit, and no signal is heard any more.
            runtime.shutdown_timeout(LEFT_BEHIND);
            ended.map_or_else(|error| failed_later(&error), |()| ExitCode::SUCCESS)
        }
        Err(error) => failed_later(&error),
    };
    log.flush(flush_timeout);
    code
}

fn start_logging(format: LogFormat, config: &config::Log) -> anyhow::Result<Log> {
    let (log, writer) = telemetry::init(format, config)?;
    thread::Builder::new().name("log".to_owned()).spawn(|| telemetry::write(writer))?;
    Ok(log)
}

/// Tells of each SIGHUP from now on; those that come while one is seen to are one. To be called on the runtime.
///
/// # Errors
/// When it cannot be heard.
pub fn hangups() -> io::Result<mpsc::Receiver<()>> {
    let mut hangups = Hangups::new()?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while !sender.is_closed() {
            hangups.next().await;
            let _ = sender.try_send(()); // one that waits already will do
        }
    });
    Ok(receiver)
}

/// The first signal asks for an orderly end, and a second one for any.
async fn stop_when_signalled(stop: CancellationToken, log: Log, flush_timeout: Duration) {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be heard");
            return stop.cancel();
        }
    };
    let signal = signals.next().await;
    tracing::info!(signal, "told to stop");
    stop.cancel();
    let signal = signals.next().await;
    tracing::warn!(signal, "told to stop again: what is under way is cut off");
    log.flush(flush_timeout);
    std::process::exit(CUT_OFF);
}

/// Waits for the answer to one question and prints it.
pub fn answer<E: Display>(question: impl Future<Output = Result<String, E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let answered = runtime.block_on(question);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    match answered {
        Ok(answer) => {
            let _ = writeln!(io::stdout(), "{answer}"); // a closed terminal changes nothing
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

/// Says why it ends, before there is a log.
pub fn failed(error: &impl Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {error:#}"); // nobody need read it
    ExitCode::FAILURE
}
