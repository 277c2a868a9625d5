//! Sockets that the service manager has made and passes on (`sd_listen_fds(3)`).

use std::env;
use std::net::TcpListener;

use anyhow::{Context, ensure};
use listenfd::ListenFd;

/// More are not meant for a gateway.
const MOST: usize = 64;

/// A socket, and the name that its unit gives it (`FileDescriptorName=`).
#[derive(Debug)]
pub struct Passed {
    /// Without `FileDescriptorName=` it is that of the unit, and others than systemd may give none.
    pub name: Option<String>,
    /// What was passed on. Whether it listens is for others to see.
    pub socket: TcpListener,
}

/// The sockets that were passed on to this process; none if there is no service manager. They can be taken once, and
/// before there are other threads: the environment changes.
///
/// # Errors
/// When what was passed is no TCP socket, or the environment makes no sense.
pub fn passed() -> anyhow::Result<Vec<Passed>> {
    let Some(count) = env::var_os("LISTEN_FDS") else { return Ok(Vec::new()) };
    let count = count.to_str().and_then(|count| count.parse::<usize>().ok());
    let count = count.filter(|count| *count <= MOST);
    let count = count.with_context(|| format!("LISTEN_FDS is not a number up to {MOST}"))?;
    let names = env::var("LISTEN_FDNAMES").ok();
    // Those of another process, whose environment this one has inherited, are left out.
    let mut sockets = ListenFd::from_env();
    if sockets.len() == 0 {
        return Ok(Vec::new());
    }
    let names = names.as_deref().map(|names| names.split(':').map(str::to_owned).collect::<Vec<_>>());
    if let Some(names) = &names {
        ensure!(names.len() == count, "LISTEN_FDNAMES has {} names for {count} sockets", names.len());
    }
    let mut passed = Vec::with_capacity(count);
    for n in 0..count {
        let name = names.as_ref().and_then(|names| names.get(n)).cloned();
        let socket = sockets.take_tcp_listener(n).with_context(|| match &name {
            Some(name) => format!("LISTEN_FDS: the socket {name:?}"),
            None => format!("LISTEN_FDS: socket {} of {count}", n + 1),
        })?;
        passed.extend(socket.map(|socket| Passed { name, socket }));
    }
    Ok(passed)
}
