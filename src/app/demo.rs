//! `apiserver demo`: everything in one process, to be tried out.

use std::io::{self, Write};
use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

use super::{App, Source, Start, StartError};
use crate::config::{Config, Embedded};
use crate::dataserver::{self, Dataserver};
use crate::telemetry::Log;

/// How many sample dataservers there are.
const DATASERVERS: u16 = 3;

/// Runs an embedded NSQ, three sample dataservers and a gateway until `stop`. The dataservers listen on
/// `common.server_addr` and the ports that follow. Its config is its own: the `source` has no file.
///
/// # Errors
/// When a port is taken, or as [`App::run`].
pub async fn demo(
    mut config: Config,
    source: Source,
    stop: CancellationToken,
    log: Log,
) -> Result<(), StartError> {
    config.nsq.embedded = Embedded::On;
    config.common.nsqd.clear();
    config.common.nsqlookupd.clear();
    let first = &config.common.server_addr;
    let mut dataservers = Vec::new();
    for n in 0..DATASERVERS {
        let port = if first.port() == 0 { 0 } else { first.port().saturating_add(n) };
        let addr = first.with_port(port);
        let dataserver = Dataserver::bind(&addr, &config.name).await.map_err(|source| StartError::Listen {
            key: "common.server_addr",
            addr: addr.to_string(),
            source,
        });
        dataservers.push(dataserver?);
    }
    let app = App::bind(config.clone(), Start::default()).await?.reload_from(source);
    if let (Some(nsq), [listen, ..]) = (app.embedded_nsq(), app.listen()) {
        config.nsq.embedded_listen.tcp = nsq.tcp;
        let try_this = what_to_try(*listen, &dataservers, &nsq.http, &config.common.server_topic);
        let _ = writeln!(io::stdout(), "{try_this}"); // nobody need read it
    }
    let mut running = tokio::task::JoinSet::new();
    for dataserver in dataservers {
        let config = config.clone();
        running.spawn(
            async move { dataserver::run(dataserver, false, &config, CancellationToken::new()).await },
        );
    }
    // They end with the gateway: whom they would say goodbye to has then ended as well.
    app.run(stop, log).await
}

fn what_to_try(listen: SocketAddr, dataservers: &[Dataserver], nsq_http: &SocketAddr, topic: &str) -> String {
    let port = listen.port();
    let addrs: Vec<_> = dataservers.iter().map(|dataserver| dataserver.addr().to_string()).collect();
    format!(
        "The gateway listens on {listen}; dataservers on {}. In another terminal:

  curl localhost:{port}/                 # answered by a random dataserver: do it again
  curl localhost:{port}/dataservers      # who is live
  curl localhost:{port}/metrics          # what Prometheus sees
  curl -d hello localhost:{port}/echo    # a body there and back

  # Announce a dataserver by hand; without more heartbeats it is gone after 10 seconds:
  curl -d 127.0.0.1:10009 'http://{nsq_http}/pub?topic={topic}'

Ctrl-C ends it.",
        addrs.join(", ")
    )
}
