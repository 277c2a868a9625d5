//! Where the gateway's listeners come from: passed on by the service manager, or bound here.

use std::net::{SocketAddr, TcpListener};

use super::StartError;
use crate::config::Config;
use crate::server::Listeners;
use crate::systemd::Passed;

/// The listeners of a gateway.
#[derive(Debug)]
pub(super) struct Doors {
    /// For users.
    pub(super) listen: Listeners,
    /// For the admin paths, if they are not to be served there.
    pub(super) admin: Option<Listeners>,
}

impl Doors {
    /// Takes what was passed on, and binds what was not for so many workers.
    pub(super) fn open(config: &Config, passed: Vec<Passed>, workers: usize) -> Result<Self, StartError> {
        let gateway = &config.gateway;
        let [listen, admin] = by_role(passed)?;
        let listen = match adopt("listen", listen)? {
            Some(listen) => listen,
            None => bind("gateway.listen", gateway.listen, workers)?,
        };
        let admin = match (adopt("admin", admin)?, gateway.admin_listen) {
            (None, Some(addr)) => Some(bind("gateway.admin_listen", addr, 1)?),
            (admin, _) => admin,
        };
        Ok(Self { listen, admin })
    }
}

/// The sockets for users, and those for the admin paths.
fn by_role(passed: Vec<Passed>) -> anyhow::Result<[Vec<TcpListener>; 2]> {
    let [mut listen, mut admin] = [const { Vec::new() }; 2];
    for Passed { name, socket } in passed {
        match name.as_deref() {
            Some("admin") => admin.push(socket),
            Some("listen" | "unknown") | None => listen.push(socket),
            // Its unit has no `FileDescriptorName=`.
            Some(unit) if unit.ends_with(".socket") => listen.push(socket),
            Some(other) => anyhow::bail!("LISTEN_FDNAMES: {other:?} is neither listen nor admin"),
        }
    }
    Ok([listen, admin])
}

fn adopt(name: &str, sockets: Vec<TcpListener>) -> anyhow::Result<Option<Listeners>> {
    if sockets.is_empty() {
        return Ok(None);
    }
    let listeners = Listeners::adopt(sockets, true);
    listeners.map(Some).map_err(|error| anyhow::anyhow!("LISTEN_FDS: what is passed on as {name:?}: {error}"))
}

fn bind(key: &'static str, addr: SocketAddr, workers: usize) -> Result<Listeners, StartError> {
    Listeners::bind(addr, workers).map_err(|source| StartError::Listen {
        key,
        addr: addr.to_string(),
        source,
    })
}
