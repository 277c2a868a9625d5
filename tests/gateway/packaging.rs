//! What is shipped beside the binaries, held against them.

mod commands;
mod compose;
mod docker;
mod kubernetes;
mod systemd;

use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::Trial;
use nsq_gateway::config::Config;
use serde_yaml::Value;

use crate::support::{tools, trials};

const BINARIES: [(&str, &str); 2] =
    [("apiserver", env!("CARGO_BIN_EXE_apiserver")), ("dataserver", env!("CARGO_BIN_EXE_dataserver"))];

/// Where the images and the unit keep `registry.snapshot`.
const STATE: &str = "/var/lib/nsq-gateway";

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![every_config_file_is_good];
    trials.extend(commands::trials());
    trials.extend(docker::trials());
    trials.extend(compose::trials());
    trials.extend(kubernetes::trials());
    trials.extend(systemd::trials());
    trials
}

fn run(binary: &str, args: &[&str]) -> Output {
    Command::new(binary).args(args).output().unwrap()
}

fn printed(binary: &str, args: &[&str]) -> String {
    let output = run(binary, args);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(tools::source(file)).unwrap()
}

/// The words of a command must be understood by the binary that the first of them names.
#[track_caller]
fn understands<S: AsRef<str>>(command: &[S]) {
    let mut words = command.iter().map(AsRef::as_ref);
    let program = words.next().unwrap().rsplit('/').next().unwrap();
    let (_, binary) = BINARIES.iter().find(|(name, _)| *name == program).expect(program);
    // An option that there is not is a fault before the help is printed.
    let args: Vec<_> = words.chain(["--help"]).collect();
    let output = run(binary, &args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The texts of a list.
#[track_caller]
fn texts(list: &Value) -> Vec<String> {
    list.as_sequence().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// How long a gateway with this config takes to stop, at most.
fn drain(config: &str) -> Duration {
    let timeouts = config.parse::<Config>().unwrap().timeouts;
    timeouts.lame_duck + timeouts.drain
}

/// The config files that are shipped, by their places.
fn configs() -> Vec<(&'static str, String)> {
    let files = ["conf/config.yaml", "conf/cluster.yaml", compose::CONFIG, systemd::CONFIG];
    let files = files.map(|file| (file, read(file)));
    files.into_iter().chain([(kubernetes::MANIFEST, kubernetes::config())]).collect()
}

fn every_config_file_is_good() {
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("config.yaml");
    for (place, config) in configs() {
        std::fs::write(&file, config.replace(STATE, state.path().to_str().unwrap())).unwrap();
        let output = run(BINARIES[0].1, &["check", "--config", file.to_str().unwrap()]);
        let warned = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && warned.is_empty(), "{place}: {warned}");
    }
}
