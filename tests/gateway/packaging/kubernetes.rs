//! The Kubernetes manifest.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use nsq_gateway::config::Config;
use serde_yaml::Value;

use super::{STATE, drain, read, texts, understands};
use crate::support::{tools, trial_with, trials};

pub const MANIFEST: &str = "deploy/kubernetes/nsq-gateway.yaml";

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        commands_are_understood,
        ports_are_those_of_the_config,
        probes_ask_the_admin_paths,
        who_is_stopped_has_time_to_drain,
        files_are_where_they_are_mounted,
    ];
    let name = "packaging::kubernetes::every_resource_is_valid";
    trials.push(trial_with(name, &tools::LINTERS, every_resource_is_valid));
    trials
}

fn resource(kind: &str) -> Value {
    let manifest = read(MANIFEST);
    let documents = manifest.split("\n---\n").map(|text| serde_yaml::from_str::<Value>(text).unwrap());
    documents.into_iter().find(|resource| resource["kind"] == kind).expect(kind)
}

/// The config file in it.
pub fn config() -> String {
    resource("ConfigMap")["data"]["config.yaml"].as_str().unwrap().to_owned()
}

fn listeners() -> [u64; 2] {
    let gateway = config().parse::<Config>().unwrap().gateway;
    [gateway.listen, gateway.admin_listen.unwrap()].map(|addr: SocketAddr| addr.port().into())
}

fn pod() -> Value {
    resource("Deployment")["spec"]["template"]["spec"].clone()
}

fn container() -> Value {
    pod()["containers"][0].clone()
}

fn every_resource_is_valid() {
    let validate = tools::LINTERS.as_ref().unwrap().join("kubernetes-validate");
    for version in ["1.30", "1.37"] {
        let output = Command::new(&validate)
            .args(["--strict", "-k", version])
            .arg(tools::source(MANIFEST))
            .output()
            .unwrap();
        assert!(output.status.success(), "{version}: {output:?}");
    }
}

fn commands_are_understood() {
    for container in [&pod()["initContainers"][0], &container()] {
        let mut command = vec!["apiserver".to_owned()];
        command.extend(texts(&container["args"]));
        understands(&command);
    }
    assert!(texts(&pod()["initContainers"][0]["args"]).contains(&"check".to_owned()));
}

fn ports_are_those_of_the_config() {
    let [listen, admin] = listeners();
    let container = container();
    let ports: Vec<_> = container["ports"].as_sequence().unwrap().iter().collect();
    let named =
        |name: &str| ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].as_u64();
    assert_eq!((named("http"), named("admin")), (Some(listen), Some(admin)));
    let annotations = &resource("Deployment")["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], admin.to_string().as_str());
    assert_eq!(resource("Service")["spec"]["ports"][0]["targetPort"], "http");
    let ingress = &resource("NetworkPolicy")["spec"]["ingress"];
    let allowed = [0, 1].map(|n| ingress[n]["ports"][0]["port"].as_u64().unwrap());
    assert_eq!(allowed, [listen, admin]);
}

fn probes_ask_the_admin_paths() {
    let container = container();
    for (probe, path) in
        [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
    {
        let get = &container[probe]["httpGet"];
        assert_eq!((get["path"].as_str(), get["port"].as_str()), (Some(path), Some("admin")), "{probe}");
    }
}

fn who_is_stopped_has_time_to_drain() {
    let wait = container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    let grace = pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(Duration::from_secs(grace - wait) > drain(&config()));
}

fn files_are_where_they_are_mounted() {
    let container = container();
    let mounts: Vec<_> = container["volumeMounts"].as_sequence().unwrap().iter().collect();
    let at = |name: &str| {
        mounts.iter().find(|mount| mount["name"] == name).unwrap()["mountPath"].as_str().unwrap()
    };
    let file = format!("{}/config.yaml", at("config"));
    assert!(texts(&container["args"]).contains(&file), "{file}");
    assert!(mounts.iter().all(|mount| mount["subPath"].is_null()), "a file by itself is never swapped");
    assert_eq!(at("state"), STATE);
    assert!(config().parse::<Config>().unwrap().registry.snapshot.unwrap().starts_with(STATE));
}
