//! The service manager: the sockets that it passes on, and what it is told (`sd_listen_fds(3)`, `sd_notify(3)`).

mod notifier;
mod sockets;

pub use notifier::{Notifier, watchdog_interval};
pub use sockets::{Passed, passed};
