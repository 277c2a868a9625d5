//! The gateway's own binaries as processes, on ports that the system picks.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::http::{get, post};
use super::{Process, eventually};

/// A registry that forgets nobody while a test runs: for tests that announce a stub once.
pub const PATIENT: &str = "registry: {ttl: 1h}\n";

/// A running gateway.
pub struct Apiserver {
    pub process: Process,
    pub listen: SocketAddr,
    pub admin: Option<SocketAddr>,
    /// TCP, HTTP and lookup of its embedded NSQ.
    pub nsq: Option<[SocketAddr; 3]>,
    /// Its config file.
    pub config: PathBuf,
    _dir: TempDir,
}

impl Apiserver {
    /// The command, with a config file of its own.
    pub fn command(config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apiserver"));
        command.args(["--log-format", "json", "--config"]).arg(config).env_remove("RUST_LOG");
        command
    }

    /// Starts one. Whatever the config does not say about `gateway.listen` and `nsq.embedded_listen` is a
    /// port of loopback that the system picks.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// As [`start`](Self::start), with something changed about the command.
    #[track_caller]
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        Self::start_by(config, |mut command| {
            change(&mut command);
            Process::start(&mut command)
        })
    }

    /// As [`start`](Self::start), started in a way of its own.
    #[track_caller]
    pub fn start_by(config: &str, start: impl FnOnce(Command) -> Process) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, on_free_ports(config)).unwrap();
        Self::start_in(dir, file, start)
    }

    /// As [`start_by`](Self::start_by), with a config file that is there already. The directory goes with the gateway.
    #[track_caller]
    pub fn start_in(dir: TempDir, config: PathBuf, start: impl FnOnce(Command) -> Process) -> Self {
        let process = start(Self::command(&config));
        let listens = process.wait_for("listener", |line| event(line, "gateway listens"));
        let nsq = process.output().lines().find_map(|line| event(line, "embedded NSQ listens"));
        Self {
            listen: addr(&listens["listen"]).unwrap(),
            admin: addr(&listens["admin"]),
            nsq: nsq.map(|nsq| ["tcp", "http", "lookup"].map(|key| addr(&nsq[key]).unwrap())),
            process,
            config,
            _dir: dir,
        }
    }

    /// Writes its config file anew, in place. What is not said is as at the start.
    pub fn write_config(&self, config: &str) {
        std::fs::write(&self.config, on_free_ports(config)).unwrap();
    }

    fn admin_addr(&self) -> SocketAddr {
        self.admin.unwrap_or(self.listen)
    }

    /// The addresses in `/dataservers`.
    pub fn live(&self) -> Vec<String> {
        let list = get(self.admin_addr(), "/dataservers").json();
        let entries = list["dataservers"].as_array().unwrap();
        entries.iter().map(|entry| entry["addr"].as_str().unwrap().to_owned()).collect()
    }

    /// The addresses of those that get requests, sorted.
    pub fn in_rotation(&self) -> Vec<String> {
        let list = get(self.admin_addr(), "/dataservers").json();
        let entries = list["dataservers"].as_array().unwrap().iter();
        let live = entries.filter(|entry| entry["state"] == "live");
        live.map(|entry| entry["addr"].as_str().unwrap().to_owned()).collect()
    }

    /// The state of a dataserver, if it is in the set.
    pub fn state(&self, addr: impl Display) -> Option<String> {
        let entry = get(self.admin_addr(), &format!("/dataservers/{addr}"));
        let state = (entry.status == 200).then(|| entry.json()["state"].clone())?;
        Some(state.as_str()?.to_owned())
    }

    /// Waits until exactly these are live.
    #[track_caller]
    pub fn wait_for_live(&self, addrs: &[&str]) {
        let mut wanted: Vec<_> = addrs.iter().map(ToString::to_string).collect();
        wanted.sort();
        eventually(&format!("{wanted:?} live"), || (self.live() == wanted).then_some(()));
        // Joins that come together share the next snapshot to pick from, some 10 ms later.
        super::pause(std::time::Duration::from_millis(50));
    }

    /// Announces addresses through the embedded NSQ, once, and waits until they are picked from.
    #[track_caller]
    pub fn announce(&self, addrs: &[SocketAddr]) {
        self.announce_each(addrs, ToString::to_string);
    }

    /// As [`announce`](Self::announce), as dataservers that speak HTTP/2.
    #[track_caller]
    pub fn announce_h2c(&self, addrs: &[SocketAddr]) {
        self.announce_each(addrs, |addr| format!(r#"{{"addr":"{addr}","proto":"h2c"}}"#));
    }

    #[track_caller]
    fn announce_each(&self, addrs: &[SocketAddr], heartbeat: impl Fn(&SocketAddr) -> String) {
        for addr in addrs {
            self.heartbeat(&heartbeat(addr));
        }
        let addrs: Vec<_> = addrs.iter().map(ToString::to_string).collect();
        self.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Publishes a heartbeat through the embedded NSQ.
    #[track_caller]
    pub fn heartbeat(&self, body: &str) {
        let [_, http, _] = self.nsq.expect("no embedded NSQ");
        let reply = post(http, "/pub?topic=data_server_addr", body.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        get(self.admin_addr(), "/metrics").text()
    }

    /// The value of a series, by its name and labels as they stand in `/metrics`; 0 if there is none.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A config with ports that the system picks where it does not say which.
pub fn on_free_ports(config: &str) -> String {
    let mut config: serde_yaml::Value = serde_yaml::from_str(config).unwrap();
    if config.is_null() {
        config = serde_yaml::Value::Mapping(serde_yaml::Mapping::new());
    }
    set_default(&mut config, &["gateway", "listen"], "127.0.0.1:0");
    for listener in ["tcp", "http", "lookup"] {
        set_default(&mut config, &["nsq", "embedded_listen", listener], "127.0.0.1:0");
    }
    serde_yaml::to_string(&config).unwrap()
}

fn set_default(config: &mut serde_yaml::Value, path: &[&str], value: &str) {
    let Some((key, rest)) = path.split_first() else {
        return;
    };
    let mapping = config.as_mapping_mut().unwrap();
    let slot = mapping.entry((*key).into()).or_insert_with(|| {
        if rest.is_empty() { value.into() } else { serde_yaml::Value::Mapping(serde_yaml::Mapping::new()) }
    });
    set_default(slot, rest, value);
}

/// The fields of a JSON log line with this message.
pub fn event(line: &str, message: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == message).then_some(line)
}

fn addr(value: &Value) -> Option<SocketAddr> {
    value.as_str()?.parse().ok()
}

/// The sample dataserver as a process.
pub struct DataserverProcess {
    pub process: Process,
    pub addr: String,
    _dir: TempDir,
}

impl DataserverProcess {
    /// Starts one on a port of loopback that the system picks.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_on("127.0.0.1:0", config, &[])
    }

    /// Starts one at this address, with more arguments.
    #[track_caller]
    pub fn start_on(addr: &str, config: &str, args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dataserver"));
        command
            .args(["--log-format", "json", "--addr", addr, "--config"])
            .arg(&file)
            .args(args)
            .env_remove("RUST_LOG");
        let process = Process::start(&mut command);
        let listens = process.wait_for("listener", |line| event(line, "dataserver listens"));
        Self { process, addr: listens["dataserver"].as_str().unwrap().to_owned(), _dir: dir }
    }
}
