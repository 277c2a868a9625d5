//! The units for systemd.

use std::process::Command;

use libtest_mimic::Trial;
use nsq_gateway::config::Config;

use super::{BINARIES, STATE, drain, read, understands};
use crate::support::{tools, trial_with, trials};

/// What is installed as `/etc/nsq-gateway/config.yaml`.
pub const CONFIG: &str = "deploy/systemd/config.yaml";

/// `systemd-analyze security`: the exposure of a unit, from 0 to 100.
const EXPOSURE: &str = "12";

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        commands_are_understood,
        the_socket_is_the_configs_listener,
        limits_and_times_fit_the_config,
        the_snapshot_is_in_the_state_directory,
    ];
    let systemd = &*tools::SYSTEMD_ANALYZE;
    trials.push(trial_with("packaging::systemd::units_are_good", systemd, units_are_good));
    trials.push(trial_with("packaging::systemd::units_may_do_little", systemd, units_may_do_little));
    trials
}

const UNITS: [&str; 3] = ["nsq-gateway.service", "nsq-gateway.socket", "nsq-announce@.service"];

fn unit(name: &str) -> String {
    read(&format!("deploy/systemd/{name}"))
}

/// The values of a key in a unit.
fn values(name: &str, key: &str) -> Vec<String> {
    let unit = unit(name);
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.map(str::to_owned).collect()
}

#[track_caller]
fn value(name: &str, key: &str) -> String {
    values(name, key).pop().unwrap_or_else(|| panic!("{name} has no {key}"))
}

fn commands_are_understood() {
    for name in ["nsq-gateway.service", "nsq-announce@.service"] {
        let commands = [values(name, "ExecStartPre"), values(name, "ExecStart")].concat();
        assert!(!commands.is_empty());
        for command in commands {
            let command = command.replace("%i", "10.0.0.7:2379");
            understands(&command.split_whitespace().filter(|word| *word != "$ANNOUNCE").collect::<Vec<_>>());
        }
    }
    assert!(value("nsq-gateway.service", "ExecStartPre").contains("apiserver check"));
}

fn the_socket_is_the_configs_listener() {
    let config: Config = read(CONFIG).parse().unwrap();
    assert_eq!(value("nsq-gateway.socket", "ListenStream"), config.gateway.listen.to_string());
}

fn limits_and_times_fit_the_config() {
    let config: Config = read(CONFIG).parse().unwrap();
    let files: usize = value("nsq-gateway.service", "LimitNOFILE").parse().unwrap();
    assert!(files > 2 * config.limits.connections);
    let stop = humantime::parse_duration(&value("nsq-gateway.service", "TimeoutStopSec")).unwrap();
    assert!(stop > drain(&read(CONFIG)));
    let goodbye = humantime::parse_duration(&value("nsq-announce@.service", "TimeoutStopSec")).unwrap();
    assert!(goodbye > config.timeouts.leave);
    assert_eq!(value("nsq-gateway.service", "RestartPreventExitStatus"), "78");
}

fn the_snapshot_is_in_the_state_directory() {
    let config: Config = read(CONFIG).parse().unwrap();
    assert!(config.registry.snapshot.unwrap().starts_with(STATE));
    assert_eq!(format!("/var/lib/{}", value("nsq-gateway.service", "StateDirectory")), STATE);
}

/// The units in a folder, with the binaries where they are here.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in UNITS {
        let mut text = unit(name);
        for (program, binary) in BINARIES {
            text = text.replace(&format!("/usr/bin/{program}"), binary);
        }
        std::fs::write(folder.path().join(name.replace("@.", "@here.")), text).unwrap();
    }
    folder
}

fn units_are_good() {
    let folder = folder();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let output = Command::new(tools::SYSTEMD_ANALYZE.as_ref().unwrap())
        .args(["verify", "--man=no"])
        .args(files)
        .output()
        .unwrap();
    // It warns of what is no fault to it, such as a key that it does not know.
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours = said.lines().filter(|line| line.contains("nsq-")).collect::<Vec<_>>();
    assert!(output.status.success() && about_ours.is_empty(), "{said}");
}

fn units_may_do_little() {
    for name in UNITS.iter().filter(|name| name.ends_with(".service")) {
        let output = Command::new(tools::SYSTEMD_ANALYZE.as_ref().unwrap())
            .args(["security", "--no-pager", "--offline=true", &format!("--threshold={EXPOSURE}")])
            .arg(tools::source("deploy/systemd").join(name))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
