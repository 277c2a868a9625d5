//! What the system tells a process: to stop, or to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask the process to stop.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on SIGTERM and SIGINT end the process no more: they are heard here.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves with the name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The signal that asks the process to read its files again.
pub struct Hangups(Signal);

impl Hangups {
    /// From now on SIGHUP ends the process no more: it is heard here.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Resolves with the next one; those that come meanwhile are one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
