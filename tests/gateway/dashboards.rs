//! The dashboard and the alerts, held against the gateway and a real Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::support::tls::Pair;
use crate::support::{
    Apiserver, PATIENT, Process, Stub, eventually, exchange, get, request, tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![every_alert_is_tested, every_expression_names_what_there_is];
    let promtool = &*tools::PROMTOOL;
    trials.push(trial_with(
        "dashboards::the_alerts_say_what_they_should",
        promtool,
        the_alerts_say_what_they_should,
    ));
    let prometheus = &*tools::PROMETHEUS;
    let name = "dashboards::prometheus_evaluates_every_expression";
    trials.push(trial_with(name, prometheus, prometheus_evaluates_every_expression));
    trials
}

fn read(file: &str) -> String {
    std::fs::read_to_string(tools::source("dashboards").join(file)).unwrap()
}

fn rules() -> Vec<serde_yaml::Value> {
    let file: serde_yaml::Value = serde_yaml::from_str(&read("alerts.yaml")).unwrap();
    file["groups"][0]["rules"].as_sequence().unwrap().clone()
}

/// Every expression of the dashboard, by the title of what it is in.
fn expressions() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&read("gateway.json")).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap();
            found.push((title.to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        found.push(("an annotation".to_owned(), annotation["expr"].as_str().unwrap().to_owned()));
    }
    assert!(found.len() > 20);
    found
}

fn the_alerts_say_what_they_should() {
    let promtool = tools::PROMTOOL.as_ref().unwrap();
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]] {
        let output =
            Command::new(promtool).args(arguments).current_dir(tools::source("dashboards")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn every_alert_is_tested() {
    let tests: serde_yaml::Value = serde_yaml::from_str(&read("alerts_test.yaml")).unwrap();
    let (mut quiet, mut firing) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_sequence().unwrap() {
        for case in test["alert_rule_test"].as_sequence().unwrap() {
            let fires = !case["exp_alerts"].as_sequence().unwrap().is_empty();
            let name = case["alertname"].as_str().unwrap().to_owned();
            if fires { &mut firing } else { &mut quiet }.insert(name);
        }
    }
    for rule in rules() {
        let alert = rule["alert"].as_str().unwrap();
        assert!(firing.contains(alert) && quiet.contains(alert), "{alert} is not tested both ways");
        for annotation in ["summary", "description", "runbook"] {
            assert!(rule["annotations"][annotation].is_string(), "{alert} has no {annotation}");
        }
        assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap()));
    }
}

/// A gateway that has shown all it can show: with answers, failures, retries and a dead dataserver.
fn busy_gateway() -> (Apiserver, Stub) {
    let gateway = Apiserver::start(&format!("{PATIENT}gateway: {{workers: 1}}\n"));
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr(), Stub::refusing()]);
    eventually("a failure", || {
        exchange(gateway.listen, &request("GET /", &[("connection", "close")], b""));
        gateway.metrics().contains("gateway_upstream_errors_total").then_some(())
    });
    (gateway, stub)
}

/// The labels of each metric that was ever shown.
fn shown(metrics: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = shown.entry(name.to_owned()).or_default();
        // Prometheus adds these to whatever it scrapes.
        labels.extend(["job", "instance"].map(str::to_owned));
        let inner = line.split_once('{').map_or("", |(_, rest)| rest.rsplit_once('}').unwrap().0);
        labels.extend(inner.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0.to_owned())));
    }
    shown
}

/// The metrics that an expression names, each with the labels that it selects by.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("gateway_").into_iter().chain(rest.find("process_")).min() {
        let from = &rest[at..];
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (name, after) = from.split_at(end);
        let selector = after.strip_prefix('{').map_or("", |inner| inner.split('}').next().unwrap());
        let labels = selector.split(',').filter_map(|pair| {
            let label = pair.trim().split(|c| !is_name(c)).next()?;
            (!label.is_empty()).then(|| label.to_owned())
        });
        found.push((name.to_owned(), labels.collect()));
        rest = after;
    }
    found
}

fn every_expression_names_what_there_is() {
    let (gateway, _stub) = busy_gateway();
    let dir = tempfile::tempdir().unwrap();
    Pair::new().write(dir.path());
    let tls = format!("tls: {{cert: '{0}/cert.pem', key: '{0}/key.pem'}}", dir.path().display());
    let encrypted = Apiserver::start(&format!("gateway: {{{tls}, admin_listen: '127.0.0.1:0'}}\n"));
    let shown = shown(&(gateway.metrics() + &encrypted.metrics()));
    let alerts = rules()
        .into_iter()
        .map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    for (title, expression) in expressions().into_iter().chain(alerts) {
        for (name, labels) in named(&expression) {
            let has = shown.get(&name).unwrap_or_else(|| panic!("{title}: there is no {name}"));
            for label in labels {
                assert!(has.contains(&label), "{title}: {name} has no label {label}");
            }
        }
        // What is grouped by must be a label of what is grouped.
        for group in expression.split("by (").skip(1) {
            let known: BTreeSet<_> =
                named(&expression).iter().flat_map(|(name, _)| shown[name].clone()).collect();
            for label in group.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(known.contains(label), "{title}: nothing there has a label {label}");
            }
        }
    }
}

/// A Prometheus that scrapes this gateway, and where it answers.
fn prometheus(gateway: &Apiserver, dir: &Path) -> (Process, SocketAddr) {
    let config = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: ['{}']\n\
         scrape_configs: [{{job_name: nsq-gateway, static_configs: [{{targets: ['{}']}}]}}]\n",
        tools::source("dashboards/alerts.yaml").display(),
        gateway.listen
    );
    let file = dir.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(tools::PROMETHEUS.as_ref().unwrap());
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg("--web.listen-address=127.0.0.1:0");
    let process = Process::start(&mut command);
    let listens = process.wait_for("its listener", |line| {
        let (_, address) = line.split_once("address=127.0.0.1:")?;
        address.split_whitespace().next()?.parse::<u16>().ok().filter(|port| *port != 0)
    });
    let prometheus = SocketAddr::from(([127, 0, 0, 1], listens));
    eventually("Prometheus to be ready", || (get(prometheus, "/-/ready").status == 200).then_some(()));
    (process, prometheus)
}

fn query(prometheus: SocketAddr, expression: &str) -> Value {
    let escaped: Vec<_> = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    get(prometheus, &format!("/api/v1/query?query={}", escaped.concat())).json()
}

fn prometheus_evaluates_every_expression() {
    let (gateway, _stub) = busy_gateway();
    let dir = tempfile::tempdir().unwrap();
    let (_process, prometheus) = prometheus(&gateway, dir.path());
    within(Duration::from_secs(20), "three scrapes", || {
        exchange(gateway.listen, &request("GET /", &[("connection", "close")], b""));
        let scraped = query(prometheus, "count_over_time(up{job=\"nsq-gateway\"}[1m])");
        let count: f64 = scraped["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
        (count >= 3.0).then_some(())
    });
    for (title, expression) in expressions() {
        let plain = expression.replace("$__rate_interval", "1m");
        let plain = plain.replace("$job", ".*").replace("$instance", ".*").replace("$dataserver", ".*");
        let answer = query(prometheus, &plain);
        assert_eq!(answer["status"], "success", "{title}: {plain}: {answer}");
        // What only failures show is filtered by the expression itself.
        let is_filtered = plain.contains("> 0") || plain.contains("== 1");
        let series = answer["data"]["result"].as_array().unwrap();
        assert!(is_filtered || !series.is_empty(), "{title}: nothing for {plain}");
    }
    let rules = get(prometheus, "/api/v1/rules").json();
    for rule in rules["data"]["groups"][0]["rules"].as_array().unwrap() {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
