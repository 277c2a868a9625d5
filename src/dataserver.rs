//! The sample dataserver, and the announcer for a service that exists already.

mod announce;
mod sample;

use std::io;

use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use announce::{Announcement, Announcer, Probe};

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

/// Serves, and announces itself, until `stop`; in the `plain` form if that is all that the gateways read. Then it says
/// that it drains, serves on for `timeouts.leave`, takes no more connections, lets what is under way end within
/// `timeouts.drain`, and says that it is down.
///
/// # Errors
/// When NSQ does not take the topic's name, heartbeats are to be signed and cannot be, or the listener fails.
pub async fn run(
    dataserver: Dataserver,
    plain: bool,
    config: &Config,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Dataserver { listener, addr, name } = dataserver;
    let announcement = Announcement { addr: addr.clone(), protocol: None, probe: None, plain };
    let mut announcer = Announcer::new(announcement, config)?;
    tracing::info!(dataserver = %addr, "dataserver listens");
    let close = CancellationToken::new();
    let app = sample::router(addr, name, stop.clone());
    let serve = axum::serve(listener, app).with_graceful_shutdown(close.clone().cancelled_owned());
    let announce = async {
        stop.run_until_cancelled(announcer.run()).await;
        announcer.drain().await;
    };
    let deadline = async {
        let (leave, drain) = (config.timeouts.leave, config.timeouts.drain);
        stop.cancelled().await;
        sleep(leave.min(drain)).await;
        close.cancel();
        sleep(drain.saturating_sub(leave)).await;
    };
    let served = tokio::select! {
        served = serve.into_future() => served,
        () = announce => Ok(()),
        () = deadline => {
            tracing::warn!("requests did not end within timeouts.drain and were cut off");
            Ok(())
        }
    };
    announcer.down().await;
    Ok(served?)
}
