//! The sample dataserver, and the announcer for a service that exists already.

mod announce;
mod sample;

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use announce::{Announcer, Probe};

use crate::addr::Addr;
use crate::config::{Config, ServerAddr};

/// A sample dataserver whose port is bound.
pub struct Dataserver {
    listener: TcpListener,
    addr: Addr,
    name: String,
}

impl Dataserver {
    /// Binds the first address that the host of `addr` has; port 0 is chosen by the system.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(addr: &ServerAddr, name: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(addr.to_string()).await?;
        let announced = addr.with_port(listener.local_addr()?.port()).to_string();
        let addr = announced.parse().map_err(io::Error::other)?;
        Ok(Self { listener, addr, name: name.to_owned() })
    }

    /// What it announces.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }
}

/// Serves, and announces itself, until `stop`.
///
/// # Errors
/// When NSQ does not take the topic's name, or the listener fails.
pub async fn run(dataserver: Dataserver, config: &Config, stop: CancellationToken) -> anyhow::Result<()> {
    let Dataserver { listener, addr, name } = dataserver;
    let announcer = Announcer::new(addr.clone(), None, None, config)?;
    tracing::info!(dataserver = %addr, "dataserver listens");
    let app = sample::router(addr, name);
    let serve = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
    // Told to stop, it announces itself no more, and what is under way may end.
    let announce = stop.run_until_cancelled(announcer.run());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(config.timeouts.drain).await;
    };
    tokio::select! {
        (served, _) = async { tokio::join!(serve.into_future(), announce) } => Ok(served?),
        () = deadline => Ok(()),
    }
}
