//! Where the gateway's listeners come from: left by the gateway that ran before, passed on by the service manager, or
//! bound here.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::{io, mem};

use super::StartError;
use crate::config::Config;
use crate::embedded_nsq::{self, EmbeddedNsq, Limits, Listener};
use crate::server::Listeners;
use crate::systemd::Passed;
use crate::takeover::{Estate, Role};

/// The listeners of a gateway.
pub(super) struct Doors {
    /// For users.
    pub(super) listen: Listeners,
    /// For the admin paths, if they are not to be served there.
    pub(super) admin: Option<Listeners>,
    /// The NSQ inside the gateway, if there is to be one.
    pub(super) nsq: Option<EmbeddedNsq>,
    /// Where the next gateway meets this one, if it was the last one's place.
    pub(super) meeting_point: Option<UnixListener>,
}

/// Sockets that somebody else has made.
#[derive(Default)]
struct Given {
    listen: Vec<TcpListener>,
    admin: Vec<TcpListener>,
    nsq: [Option<TcpListener>; 3],
    meeting_point: Option<UnixListener>,
    /// The service manager has them as well.
    shared: bool,
}

impl Doors {
    /// Takes what was passed on or left, and binds what was not for so many workers.
    pub(super) async fn open(
        config: &Config,
        passed: Vec<Passed>,
        estate: Estate,
        workers: usize,
    ) -> Result<Self, StartError> {
        let gateway = &config.gateway;
        let mut left = Given::left(estate);
        let mut passed = Given::passed(passed)?;
        let listen = match passed.users()?.or(left.users()?) {
            Some(listen) => listen,
            None => bind("gateway.listen", gateway.listen, workers)?,
        };
        // What the service manager passes on goes without the config's word.
        left.admin
            .retain(|socket| left.shared || gateway.admin_listen.is_some_and(|addr| is_at(socket, addr)));
        let admin = match (passed.operators()?.or(left.operators()?), gateway.admin_listen) {
            (None, Some(addr)) => Some(bind("gateway.admin_listen", addr, 1)?),
            (admin, _) => admin,
        };
        let nsq = if config.runs_embedded_nsq() { Some(embedded_nsq(config, left.nsq).await?) } else { None };
        Ok(Self { listen, admin, nsq, meeting_point: left.meeting_point })
    }

    /// The sockets, for whoever takes over.
    pub(super) fn estate(&self) -> io::Result<Estate> {
        let mut sockets = Vec::new();
        let listeners = [(Role::Listen, Some(&self.listen)), (Role::Admin, self.admin.as_ref())];
        for (role, listeners) in listeners {
            for socket in listeners.into_iter().flat_map(Listeners::sockets) {
                sockets.push((role, socket.try_clone_to_owned()?));
            }
        }
        let nsq = self.nsq.iter().flat_map(EmbeddedNsq::sockets);
        for (role, socket) in [Role::NsqTcp, Role::NsqHttp, Role::NsqLookup].into_iter().zip(nsq) {
            sockets.push((role, socket.try_clone_to_owned()?));
        }
        Ok(Estate { shared: self.listen.shared, sockets, set: Vec::new() })
    }
}

impl Given {
    /// Of what was passed on, the sockets for users and those for the admin paths.
    fn passed(passed: Vec<Passed>) -> anyhow::Result<Self> {
        let mut given = Self { shared: true, ..Self::default() };
        for Passed { name, socket } in passed {
            match name.as_deref() {
                Some("admin") => given.admin.push(socket),
                Some("listen" | "unknown") | None => given.listen.push(socket),
                // Its unit has no `FileDescriptorName=`.
                Some(unit) if unit.ends_with(".socket") => given.listen.push(socket),
                Some(other) => anyhow::bail!("LISTEN_FDNAMES: {other:?} is neither listen nor admin"),
            }
        }
        Ok(given)
    }

    fn left(estate: Estate) -> Self {
        let mut given = Self { shared: estate.shared, ..Self::default() };
        for (role, socket) in estate.sockets {
            let [tcp, http, lookup] = &mut given.nsq;
            match role {
                Role::Listen => given.listen.push(socket.into()),
                Role::Admin => given.admin.push(socket.into()),
                Role::NsqTcp => *tcp = Some(socket.into()),
                Role::NsqHttp => *http = Some(socket.into()),
                Role::NsqLookup => *lookup = Some(socket.into()),
                Role::Takeover => given.meeting_point = Some(socket.into()),
            }
        }
        given
    }

    fn users(&mut self) -> anyhow::Result<Option<Listeners>> {
        adopt("listen", mem::take(&mut self.listen), self.shared)
    }

    fn operators(&mut self) -> anyhow::Result<Option<Listeners>> {
        adopt("admin", mem::take(&mut self.admin), self.shared)
    }
}

fn adopt(name: &str, sockets: Vec<TcpListener>, shared: bool) -> anyhow::Result<Option<Listeners>> {
    if sockets.is_empty() {
        return Ok(None);
    }
    let listeners = Listeners::adopt(sockets, shared);
    listeners.map(Some).map_err(|error| anyhow::anyhow!("LISTEN_FDS: what is passed on as {name:?}: {error}"))
}

/// Whether a socket listens where the config says, as far as it says.
fn is_at(socket: &TcpListener, wanted: SocketAddr) -> bool {
    let is_at = |addr: SocketAddr| addr.ip() == wanted.ip() && [addr.port(), 0].contains(&wanted.port());
    socket.local_addr().is_ok_and(is_at)
}

fn bind(key: &'static str, addr: SocketAddr, workers: usize) -> Result<Listeners, StartError> {
    Listeners::bind(addr, workers).map_err(|source| StartError::Listen {
        key,
        addr: addr.to_string(),
        source,
    })
}

/// On the sockets that were left, if they are where they should be.
async fn embedded_nsq(config: &Config, left: [Option<TcpListener>; 3]) -> Result<EmbeddedNsq, StartError> {
    let (listen, limits) = (config.nsq.embedded_listen, Limits::default());
    if let [Some(tcp), Some(http), Some(lookup)] = left
        && is_at(&tcp, listen.tcp)
        && is_at(&http, listen.http)
        && is_at(&lookup, listen.lookup)
    {
        let adopted = EmbeddedNsq::adopt([tcp, http, lookup], limits);
        return adopted.map_err(|error| StartError::Other(error.into()));
    }
    let listen = embedded_nsq::Listen { tcp: listen.tcp, http: listen.http, lookup: listen.lookup };
    EmbeddedNsq::bind(listen, limits).await.map_err(|error| {
        let key = match error.listener {
            Listener::Tcp => "nsq.embedded_listen.tcp",
            Listener::Http => "nsq.embedded_listen.http",
            Listener::Lookup => "nsq.embedded_listen.lookup",
        };
        StartError::Listen { key, addr: error.addr.to_string(), source: error.source }
    })
}
