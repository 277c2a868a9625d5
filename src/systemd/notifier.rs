//! What the service manager is told (`sd_notify(3)`): a line a fact, in a datagram.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A service manager that takes nothing must not hold anything up for long.
const PATIENCE: Duration = Duration::from_secs(1);

/// A cheap handle to the service manager. Where there is none, nothing is told.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
}

impl Notifier {
    /// Whoever `NOTIFY_SOCKET` names.
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let connected = connect(&name);
            if let Err(error) = &connected {
                tracing::warn!(socket = ?name, "the service manager cannot be told anything: {error}");
            }
            connected.ok().map(Arc::new)
        });
        Self { socket }
    }

    /// Whether anybody is told.
    pub fn is_heard(&self) -> bool {
        self.socket.is_some()
    }

    /// The start, or a reload, is done.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The config is being read again; [`ready`](Self::ready) follows. The time is what `Type=notify-reload` asks for.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// The end has begun, and may take so long whatever `TimeoutStopSec=` says.
    pub fn stopping(&self, within: Duration) {
        self.tell(&format!("STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC={}", within.as_micros()));
    }

    /// What `systemctl status` shows, in one line.
    pub fn status(&self, text: &str) {
        self.tell(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// It still works.
    pub fn watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, facts: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(facts.as_bytes())
        {
            tracing::warn!(facts, "the service manager was not told: {error}");
        }
    }
}

/// A path, or a name in the abstract namespace behind an `@`.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match name.as_encoded_bytes() {
        [b'@', name @ ..] => socket.connect_addr(&abstract_name(name)?)?,
        _ => socket.connect(name)?,
    }
    Ok(socket)
}

#[cfg(target_os = "linux")]
fn abstract_name(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_name(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How long the service manager waits between two signs that this process works, if it waits for any.
pub fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_meant =
        env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    number("WATCHDOG_USEC").filter(|usec| is_meant && *usec > 0).map(Duration::from_micros)
}
