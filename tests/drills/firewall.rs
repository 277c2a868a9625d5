//! Packets that are lost without a word, in a network that is the drill's own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::findings::{Cannot, needs};
use crate::stage;
use crate::support::tools;

/// nftables, with one chain that all packets of the loopback pass.
pub struct Firewall {
    nft: PathBuf,
}

impl Firewall {
    /// Puts it up; it lets everything through.
    pub fn new() -> Result<Self, Cannot> {
        let firewall = Self { nft: needs(&tools::needed_on_path("nft"))? };
        stage::own_network()?;
        let put_up = "add table inet drill\n\
                      add chain inet drill in { type filter hook input priority 0; policy accept; }\n";
        firewall.run(put_up).map_err(Cannot::Privilege)?;
        Ok(firewall)
    }

    /// Drops the first packet of every new connection to this address.
    pub fn drop_new(&self, to: SocketAddr) {
        self.add(&format!("tcp dport {} tcp flags & (syn | ack) == syn drop", to.port()));
    }

    /// Drops everything to and from this address, as if its machine had lost power.
    pub fn drop_all(&self, of: SocketAddr) {
        self.add(&format!("tcp dport {} drop", of.port()));
        self.add(&format!("tcp sport {} drop", of.port()));
    }

    /// Drops everything on the connections to this address that are open now, as a router does that has
    /// forgotten them; new ones are let through. Returns how many there were.
    pub fn drop_open(&self, to: SocketAddr) -> usize {
        let ports = open_connections_to(to);
        for port in &ports {
            self.add(&format!("tcp sport {port} tcp dport {} drop", to.port()));
            self.add(&format!("tcp sport {} tcp dport {port} drop", to.port()));
        }
        ports.len()
    }

    /// Lets everything through again.
    pub fn open(&self) {
        self.run("flush chain inet drill in\n").unwrap();
    }

    fn add(&self, rule: &str) {
        self.run(&format!("add rule inet drill in {rule}\n")).unwrap();
    }

    fn run(&self, script: &str) -> Result<(), String> {
        let mut command = Command::new(&self.nft);
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = command.spawn().map_err(|error| format!("nft: {error}"))?;
        nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = nft.wait_with_output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("nft: {}", why.trim())) }
    }
}

/// The ports at the other end of the open connections to an address of IPv4 (`man 5 proc_pid_net`).
fn open_connections_to(to: SocketAddr) -> Vec<u16> {
    const ESTABLISHED: &str = "01";
    let port = |end: &str| u16::from_str_radix(end.rsplit(':').next()?, 16).ok();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (local, remote, state) = (port(fields[1])?, port(fields[2])?, fields[3]);
            (remote == to.port() && state == ESTABLISHED).then_some(local)
        })
        .collect()
}
