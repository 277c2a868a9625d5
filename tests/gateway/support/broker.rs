//! NSQ for the tests: real daemons, or gateways that run an embedded one. Both are processes that can be
//! killed, stopped and started again on the same ports.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::apiserver::event;
use super::{Apiserver, Process, post, tools};

/// Which NSQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broker {
    /// nsqd and nsqlookupd.
    Real,
    /// The one inside a gateway, of which another gateway is a client.
    Embedded,
}

/// Some nsqds, and the lookups that know them.
pub struct Cluster {
    broker: Broker,
    lookupd: Option<(Process, SocketAddr, SocketAddr)>,
    pub nsqds: Vec<Nsqd>,
}

/// One nsqd.
pub struct Nsqd {
    broker: Broker,
    process: Option<Process>,
    pub tcp: SocketAddr,
    pub http: SocketAddr,
    lookup: SocketAddr,
    lookupd_tcp: Option<SocketAddr>,
    dir: TempDir,
}

impl Cluster {
    /// Starts this many nsqds and what knows them.
    #[track_caller]
    pub fn start(broker: Broker, nsqds: usize) -> Self {
        let lookupd = (broker == Broker::Real).then(|| {
            let mut command = Command::new(daemon("nsqlookupd"));
            command.args(["-tcp-address=127.0.0.1:0", "-http-address=127.0.0.1:0"]);
            // An nsqd that was killed and is back must not be known twice.
            command.args(["-inactive-producer-timeout=5s", "-tombstone-lifetime=5s"]);
            let process = Process::start(&mut command);
            let [tcp, http] = ["TCP", "HTTP"].map(|kind| listening(&process, kind));
            (process, tcp, http)
        });
        let mut cluster = Self { broker, lookupd, nsqds: Vec::new() };
        for _ in 0..nsqds {
            cluster.add_nsqd();
        }
        cluster
    }

    /// Starts one more nsqd.
    #[track_caller]
    pub fn add_nsqd(&mut self) {
        let lookupd_tcp = self.lookupd.as_ref().map(|(_, tcp, _)| *tcp);
        self.nsqds.push(Nsqd::start(self.broker, lookupd_tcp));
    }

    /// A config with these nsqds, with or without their lookups, and whatever `more` says.
    pub fn config(&self, with_lookup: bool, more: &str) -> String {
        let nsqds: Vec<_> = self.nsqds.iter().map(|nsqd| nsqd.tcp.to_string()).collect();
        let lookups = if with_lookup { self.lookups() } else { Vec::new() };
        let lookups: Vec<_> = lookups
            .iter()
            .map(|addr| format!("{{addr: {}, http_port: {}}}", addr.ip(), addr.port()))
            .collect();
        format!(
            "common: {{heart_beat_time: 1, nsqd: {nsqds:?}, nsqlookupd: [{}]}}\n{more}",
            lookups.join(", ")
        )
    }

    /// A config that names only the lookups.
    pub fn lookup_config(&self, more: &str) -> String {
        let config = self.config(true, more);
        let nsqds: Vec<_> = self.nsqds.iter().map(|nsqd| nsqd.tcp.to_string()).collect();
        config.replace(&format!("nsqd: {nsqds:?}, "), "")
    }

    /// The HTTP sides of the lookups.
    pub fn lookups(&self) -> Vec<SocketAddr> {
        match &self.lookupd {
            Some((_, _, http)) => vec![*http],
            None => self.nsqds.iter().map(|nsqd| nsqd.lookup).collect(),
        }
    }
}

impl Nsqd {
    #[track_caller]
    fn start(broker: Broker, lookupd_tcp: Option<SocketAddr>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let dir = tempfile::tempdir().unwrap();
        let mut nsqd = Self { broker, process: None, tcp: any, http: any, lookup: any, lookupd_tcp, dir };
        nsqd.run();
        nsqd
    }

    /// Starts it, again on the ports that it had.
    #[track_caller]
    pub fn run(&mut self) {
        match self.broker {
            Broker::Real => self.run_daemon(),
            Broker::Embedded => self.run_embedded(),
        }
    }

    fn run_daemon(&mut self) {
        let mut command = Command::new(daemon("nsqd"));
        command
            .arg(format!("-tcp-address={}", self.tcp))
            .arg(format!("-http-address={}", self.http))
            .arg("-broadcast-address=127.0.0.1")
            .arg("-data-path")
            .arg(self.dir.path());
        if let Some(lookupd) = self.lookupd_tcp {
            command.arg(format!("-lookupd-tcp-address={lookupd}"));
        }
        let process = Process::start(&mut command);
        [self.tcp, self.http] = ["TCP", "HTTP"].map(|kind| listening(&process, kind));
        self.process = Some(process);
    }

    fn run_embedded(&mut self) {
        let file = self.dir.path().join("config.yaml");
        let config = format!(
            "gateway: {{listen: 127.0.0.1:0, workers: 1}}\n\
             nsq: {{embedded_listen: {{tcp: '{}', http: '{}', lookup: '{}'}}}}\n",
            self.tcp, self.http, self.lookup
        );
        std::fs::write(&file, config).unwrap();
        let process = Process::start(&mut Apiserver::command(&file));
        let listens = process.wait_for("embedded NSQ", |line| event(line, "embedded NSQ listens"));
        [self.tcp, self.http, self.lookup] =
            ["tcp", "http", "lookup"].map(|key| listens[key].as_str().unwrap().parse().unwrap());
        self.process = Some(process);
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Publishes one heartbeat over HTTP.
    #[track_caller]
    pub fn publish(&self, body: &[u8]) {
        self.post("/pub?topic=data_server_addr", body);
    }

    /// Asks for something over HTTP that must be granted.
    #[track_caller]
    pub fn post(&self, path: &str, body: &[u8]) {
        let reply = post(self.http, path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

fn daemon(name: &str) -> std::path::PathBuf {
    tools::NSQD.as_ref().unwrap().join(name)
}

/// Where a daemon says that it listens.
fn listening(process: &Process, kind: &str) -> SocketAddr {
    let marker = format!("{kind}: listening on ");
    process.wait_for(&marker, |line| line.split_once(&marker)?.1.trim().parse().ok())
}
