//! A gateway under measurement: a process of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A gateway that runs, killed when this is dropped.
pub(crate) struct Gateway {
    pub(crate) child: Child,
    said: HashMap<String, serde_json::Value>,
    _rest: std::thread::JoinHandle<()>,
}

impl Gateway {
    /// Starts this one with this config file, and waits until it listens.
    pub(crate) fn start(mut command: Command, config: &Path) -> Self {
        command
            .args(["--log-format", "json", "--config"])
            .arg(config)
            .env("RUST_LOG", "info,nsq_gateway::nsq::intake=off,tokio_nsq=off")
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = HashMap::new();
        while !said.contains_key("gateway listens") {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            said.insert(line["message"].as_str().unwrap().to_owned(), line);
        }
        let rest = std::thread::spawn(move || lines.for_each(drop));
        Self { child, said, _rest: rest }
    }

    /// What one of its first log lines has said there.
    pub(crate) fn said(&self, message: &str, field: &str) -> &str {
        self.said[message][field].as_str().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
