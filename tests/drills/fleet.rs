//! A gateway and its dataservers, with timings that a drill can wait for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::findings::{Cannot, needs};
use crate::support::{Apiserver, Broker, Cluster, DataserverProcess, eventually, tools};

/// How long a dataserver may be silent, in every drill.
pub const TTL: Duration = Duration::from_millis(2500);

/// How often a dataserver is heard, in every drill.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long an nsqd may be silent: two of the heartbeats that it is asked for.
pub const NSQD_SILENCE: Duration = Duration::from_secs(2);

/// The longest connection attempt to a dataserver: the default.
pub const CONNECT: Duration = Duration::from_secs(1);

const TIMINGS: &str = "registry: {ttl: 2500ms, sweep_interval: 200ms}\n";

const NSQ_TIMINGS: &str = "nsq: {lookup_interval: 300ms, silence_timeout: 2s, reconnect_max: 3s}\n";

const CONFIG_FILE: &str = "dataserver.yaml";

/// A gateway and its dataservers.
pub struct Fleet {
    pub gateway: Apiserver,
    pub dataservers: Vec<DataserverProcess>,
    /// The config of a dataserver.
    config: String,
    dir: TempDir,
}

impl Fleet {
    /// Starts a gateway with an NSQ inside, and dataservers; waits until they are live.
    #[track_caller]
    pub fn start(dataservers: usize, more: &str) -> Self {
        Self::start_with(dataservers, more, |_| {})
    }

    /// As [`start`](Self::start), with something changed about the gateway's command.
    #[track_caller]
    pub fn start_with(dataservers: usize, more: &str, change: impl FnOnce(&mut Command)) -> Self {
        let gateway = Apiserver::start_with(&format!("{TIMINGS}{NSQ_TIMINGS}{more}"), change);
        let [nsqd, ..] = gateway.nsq.unwrap();
        let config = format!("common: {{heart_beat_time: 1, nsqd: ['{nsqd}']}}\n");
        Self::of(gateway, dataservers, config)
    }

    /// Starts a gateway and dataservers that have these nsqds.
    #[track_caller]
    pub fn on(cluster: &Cluster, dataservers: usize, more: &str) -> Self {
        let gateway = Apiserver::start(&gateway_config(cluster, more));
        Self::of(gateway, dataservers, cluster.config(false, ""))
    }

    #[track_caller]
    pub fn of(gateway: Apiserver, dataservers: usize, config: String) -> Self {
        let dataservers = (0..dataservers).map(|_| DataserverProcess::start(&config)).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG_FILE), &config).unwrap();
        let fleet = Self { gateway, dataservers, config, dir };
        let addrs = fleet.addrs();
        fleet.gateway.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
        fleet
    }

    /// Where its dataservers are.
    pub fn addrs(&self) -> Vec<String> {
        self.dataservers.iter().map(|dataserver| dataserver.addr.clone()).collect()
    }

    pub fn addr(&self, n: usize) -> SocketAddr {
        self.dataservers[n].addr.parse().unwrap()
    }

    /// Kills a dataserver with SIGKILL and says when that was.
    pub fn kill(&mut self, n: usize) -> Instant {
        self.dataservers[n].process.kill();
        Instant::now()
    }

    /// Starts a dataserver where it was before.
    pub fn start_again(&mut self, n: usize) {
        let addr = self.dataservers[n].addr.clone();
        self.dataservers[n] = DataserverProcess::start_on(&addr, &self.config, &[]);
    }

    /// Tells a dataserver to stop, waits until it has, starts it where it was and waits until it is live.
    pub fn restart(&mut self, n: usize) {
        self.dataservers[n].process.signal("TERM");
        self.dataservers[n].process.wait();
        self.start_again(n);
        let addr = self.dataservers[n].addr.clone();
        eventually("it to be back", || (self.state(&addr)? == "live").then_some(()));
    }

    /// The config of a dataserver, in a file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join(CONFIG_FILE)
    }

    /// The state of a dataserver, if it is known.
    pub fn state(&self, addr: &str) -> Option<String> {
        self.gateway.state(addr)
    }

    /// How many were evicted, for whatever reason.
    pub fn evicted(&self) -> usize {
        let metrics = self.gateway.metrics();
        let of_all = metrics.lines().filter_map(|line| line.strip_prefix("gateway_evictions_total{"));
        let counts = of_all.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok());
        counts.sum()
    }
}

impl Drop for Fleet {
    /// What the gateway has said is a part of what is known of a drill.
    fn drop(&mut self) {
        eprintln!("{}", self.gateway.process.output());
    }
}

/// The config of a gateway on these nsqds.
pub fn gateway_config(cluster: &Cluster, more: &str) -> String {
    let nsq = if more.contains("nsq:") { "" } else { NSQ_TIMINGS };
    cluster.config(true, &format!("{TIMINGS}{nsq}{more}"))
}

/// Real nsqds, and the lookup that knows them.
pub fn real_nsq(nsqds: usize) -> Result<Cluster, Cannot> {
    needs(&tools::NSQD)?;
    Ok(Cluster::start(Broker::Real, nsqds))
}
