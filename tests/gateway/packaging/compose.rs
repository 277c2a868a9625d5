//! `compose.yaml`, and what Prometheus and Grafana are given in it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use nsq_gateway::config::Config;
use serde_yaml::Value;

use super::{STATE, drain, read, texts, understands};
use crate::support::{tools, trial_with, trials};

/// What its gateway and dataservers run with.
pub const CONFIG: &str = "deploy/compose/gateway/config.yaml";

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![grafana_finds_the_dashboard_and_prometheus, prometheus_scrapes_the_gateway];
    let compose = &*tools::COMPOSE;
    for (name, test) in [
        ("commands_are_understood", commands_are_understood as fn()),
        ("what_is_mounted_exists", what_is_mounted_exists),
        ("ports_are_those_of_the_config", ports_are_those_of_the_config),
        ("who_is_stopped_has_time_to_drain", who_is_stopped_has_time_to_drain),
    ] {
        trials.push(trial_with(&format!("packaging::compose::{name}"), compose, test));
    }
    let name = "packaging::compose::nsq_understands_its_flags_and_is_the_one_that_is_tested";
    trials.push(trial_with(name, &tools::NSQD, nsq_understands_its_flags_and_is_the_one_that_is_tested));
    let name = "packaging::compose::promtool_finds_nothing";
    trials.push(trial_with(name, &tools::PROMTOOL, promtool_finds_nothing));
    trials
}

/// What Docker Compose makes of the file.
fn project() -> Value {
    let output =
        Command::new(tools::COMPOSE.as_ref().unwrap()).arg(tools::source("compose.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_yaml::from_slice(&output.stdout).unwrap()
}

/// Its services, by name.
fn services() -> Vec<(String, Value)> {
    let project = project();
    let services = project["services"].as_mapping().unwrap();
    services.iter().map(|(name, service)| (name.as_str().unwrap().to_owned(), service.clone())).collect()
}

fn is_ours(service: &Value) -> bool {
    service["image"] == "nsq-gateway"
}

/// The file as it is written, for what needs no other tool.
fn file() -> Value {
    let mut file: Value = serde_yaml::from_str(&read("compose.yaml")).unwrap();
    file.apply_merge().unwrap();
    file
}

fn config() -> Config {
    read(CONFIG).parse().unwrap()
}

fn commands_are_understood() {
    let mut programs = BTreeSet::new();
    for (_, service) in services().iter().filter(|(_, service)| is_ours(service)) {
        let mut command = vec!["apiserver".to_owned()];
        if service["entrypoint"].is_sequence() {
            command = texts(&service["entrypoint"]);
        }
        if service["command"].is_sequence() {
            command.extend(texts(&service["command"]));
        }
        understands(&command);
        programs.insert(command.join(" "));
        if service["healthcheck"]["test"].is_sequence() {
            let test = texts(&service["healthcheck"]["test"]);
            assert_eq!(test[0], "CMD");
            understands(&test[1..]);
        }
    }
    assert!(programs.contains("apiserver") && programs.contains("apiserver check"), "{programs:?}");
    assert_eq!(programs.iter().filter(|program| program.contains("dataserver --addr")).count(), 3);
}

fn what_is_mounted_exists() {
    for (name, service) in services() {
        for volume in service["volumes"].as_sequence().into_iter().flatten() {
            if volume["type"] == "bind" {
                let source = volume["source"].as_str().unwrap();
                assert!(Path::new(source).exists(), "{name}: {source}");
            }
        }
    }
    let snapshot = config().registry.snapshot.unwrap();
    assert!(snapshot.starts_with(STATE));
    let gateway = &file()["services"]["gateway"];
    assert!(texts(&gateway["volumes"]).contains(&format!("state:{STATE}")));
}

fn ports_are_those_of_the_config() {
    let config = config();
    let admin = config.gateway.admin_listen.unwrap();
    let (_, gateway) = services().into_iter().find(|(name, _)| name == "gateway").unwrap();
    let ports = gateway["ports"].as_sequence().unwrap();
    let published: Vec<_> = ports
        .iter()
        .map(|port| (port["target"].as_u64().unwrap(), port["host_ip"].as_str().unwrap_or_default()))
        .collect();
    let expected = [(config.gateway.listen.port().into(), ""), (admin.port().into(), "127.0.0.1")];
    assert_eq!(published, expected, "the admin paths are for this machine alone");
}

fn who_is_stopped_has_time_to_drain() {
    for (name, service) in services().iter().filter(|(_, service)| is_ours(service)) {
        let grace = humantime::parse_duration(service["stop_grace_period"].as_str().unwrap()).unwrap();
        assert!(grace > drain(&read(CONFIG)), "{name}");
    }
}

fn nsq_understands_its_flags_and_is_the_one_that_is_tested() {
    let version = read("tests/nsq/go.mod");
    let version = version.split("github.com/nsqio/nsq ").nth(1).unwrap().split_whitespace().next().unwrap();
    let file = file();
    for name in ["nsqlookupd", "nsqd-1", "nsqd-2"] {
        let service = &file["services"][name];
        assert_eq!(service["image"], format!("nsqio/nsq:{version}").as_str());
        let command = texts(&service["command"]);
        let program = tools::NSQD.as_ref().unwrap().join(command[0].trim_start_matches('/'));
        let help = Command::new(program).arg("-help").output().unwrap();
        let help =
            String::from_utf8_lossy(&help.stderr).into_owned() + &String::from_utf8_lossy(&help.stdout);
        for flag in command[1..].iter().map(|word| word.trim_start_matches('-').split('=').next().unwrap()) {
            let known = [" ", "\n"].iter().any(|end| help.contains(&format!("  -{flag}{end}")));
            assert!(known, "{name} has no -{flag}");
        }
    }
}

/// Prometheus' config, in a folder as the container sees it.
fn prometheus_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for volume in texts(&file()["services"]["prometheus"]["volumes"]) {
        if let Some((source, target)) = volume.strip_prefix("./").and_then(|volume| volume.split_once(':')) {
            let target = target.trim_end_matches(":ro").strip_prefix("/etc/prometheus/").unwrap();
            std::fs::copy(tools::source(source), folder.path().join(target)).unwrap();
        }
    }
    folder
}

fn promtool_finds_nothing() {
    let folder = prometheus_folder();
    let promtool = Command::new(tools::PROMTOOL.as_ref().unwrap())
        .args(["check", "config"])
        .arg(folder.path().join("prometheus.yml"))
        .output()
        .unwrap();
    assert!(promtool.status.success(), "{}", String::from_utf8_lossy(&promtool.stderr));
}

fn prometheus_scrapes_the_gateway() {
    let prometheus: Value = serde_yaml::from_str(&read("deploy/compose/prometheus/prometheus.yml")).unwrap();
    let job = &prometheus["scrape_configs"][0];
    let port = config().gateway.admin_listen.as_ref().map(SocketAddr::port).unwrap();
    assert_eq!(job["static_configs"][0]["targets"][0], format!("gateway:{port}").as_str());
    let alerts = read("dashboards/alerts.yaml");
    let named = format!("job=\"{}\"", job["job_name"].as_str().unwrap());
    assert!(alerts.contains(&named), "no alert names {named}");
}

fn grafana_finds_the_dashboard_and_prometheus() {
    let provisioning = "deploy/compose/grafana/provisioning";
    let sources: Value =
        serde_yaml::from_str(&read(&format!("{provisioning}/datasources/prometheus.yaml"))).unwrap();
    assert_eq!(sources["datasources"][0]["url"], "http://prometheus:9090");
    let providers: Value =
        serde_yaml::from_str(&read(&format!("{provisioning}/dashboards/nsq-gateway.yaml"))).unwrap();
    let folder = providers["providers"][0]["options"]["path"].as_str().unwrap();
    let grafana = &file()["services"]["grafana"];
    let dashboard = format!("{folder}/gateway.json");
    assert!(texts(&grafana["volumes"]).contains(&format!("./dashboards/gateway.json:{dashboard}:ro")));
    assert!(texts(&grafana["volumes"]).contains(&format!("./{provisioning}:/etc/grafana/provisioning:ro")));
    assert_eq!(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"], dashboard.as_str());
}
