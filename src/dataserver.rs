//! The sample dataserver, and the announcer for a service that exists already.

mod announce;
mod sample;

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use announce::{Announcer, Probe};

use crate::addr::Addr;
use crate::config::Config;

/// A sample dataserver whose port is bound.
pub struct Dataserver {
    listener: TcpListener,
    addr: SocketAddr,
    name: String,
}

impl Dataserver {
    /// Binds `addr`; port 0 is chosen by the system.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(addr: SocketAddr, name: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok(Self {
            listener,
            addr,
            name: name.to_owned(),
        })
    }

    /// Where it listens, and what it announces.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Serves, and announces itself, until `stop`.
///
/// # Errors
/// When its address is not one that a gateway would take, or the listener fails.
pub async fn run(dataserver: Dataserver, config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    let Dataserver { listener, addr, name } = dataserver;
    let own_addr: Addr = addr
        .to_string()
        .parse()
        .map_err(|error| anyhow::anyhow!("{addr} {error}"))?;
    let announcer = Announcer::new(own_addr, None, config)?;
    tracing::info!(dataserver = %addr, "dataserver listens");
    let app = sample::router(addr, name);
    let serve = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serve.into_future() => served?,
        () = announcer.run() => {}
    }
    Ok(())
}
