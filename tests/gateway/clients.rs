//! NSQ clients that others wrote, as producers of heartbeats and as consumers, against nsqd and against the
//! embedded NSQ.

use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Trial;

use crate::support::{Apiserver, Broker, Cluster, Process, Stub, eventually, get, pause, tools, trial_with};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for broker in [Broker::Real, Broker::Embedded] {
        for client in [Client::SeedGo, Client::Go, Client::Python, Client::Node, Client::Curl] {
            let name = format!("clients::{broker:?}::{client:?}_announces_a_dataserver").to_lowercase();
            trials.push(trial_with(&name, &needs(broker, client), move || announces(broker, client)));
        }
        for client in [Client::Go, Client::Python, Client::Node] {
            let name = format!("clients::{broker:?}::{client:?}_consumes").to_lowercase();
            trials.push(trial_with(&name, &needs(broker, client), move || consumes(broker, client)));
        }
        let name = format!("clients::{broker:?}::go_requeues_and_sees_it_again").to_lowercase();
        trials.push(trial_with(&name, &needs(broker, Client::Go), move || go_requeues(broker)));
        let name = format!("clients::{broker:?}::go_finds_nsqd_through_lookup").to_lowercase();
        trials.push(trial_with(&name, &needs(broker, Client::Go), move || go_looks_up(broker)));
    }
    trials
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    /// go-nsq as the old system used it: a new producer for every heartbeat.
    SeedGo,
    /// go-nsq with producers that are kept.
    Go,
    /// pynsq.
    Python,
    /// nsqjs.
    Node,
    /// nsqd's HTTP interface.
    Curl,
}

fn needs(broker: Broker, client: Client) -> Result<PathBuf, String> {
    if broker == Broker::Real {
        tools::NSQD.as_ref()?;
    }
    match client {
        Client::SeedGo | Client::Go => tools::GO.clone(),
        Client::Python => tools::PYTHON.clone(),
        Client::Node => tools::NODE.clone(),
        Client::Curl => tools::CURL.clone(),
    }
}

const TOPIC: &str = "data_server_addr";

/// A topic that no gateway reads: messages wait in it for their first consumer.
const OTHER_TOPIC: &str = "orders";
const PUBLISH: &str = "/pub?topic=orders";

/// A command of a client program, before its own arguments.
fn program(client: Client) -> Command {
    match client {
        Client::SeedGo | Client::Go => Command::new(tools::GO.as_ref().unwrap().join("heartbeat")),
        Client::Python => {
            let mut command = Command::new(tools::PYTHON.as_ref().unwrap());
            command.arg(tools::source("tests/clients/python/client.py"));
            command
        }
        Client::Node => {
            let mut command = Command::new("node");
            command
                .arg(tools::source("tests/clients/node/client.js"))
                .env("NODE_PATH", tools::NODE.as_ref().unwrap());
            command
        }
        Client::Curl => Command::new(tools::CURL.as_ref().unwrap()),
    }
}

fn announces(broker: Broker, client: Client) {
    let cluster = Cluster::start(broker, 1);
    let (tcp, http) = (cluster.nsqds[0].tcp.to_string(), cluster.nsqds[0].http);
    let gateway = Apiserver::start(&cluster.config(true, "registry: {ttl: 3s, sweep_interval: 200ms}\n"));
    let stub = Stub::ok("announced");
    let addr = stub.addr().to_string();
    // What is published once is only heard by who reads already.
    let connected = format!("gateway_nsqd_connected{{nsqd=\"{tcp}\"}}");
    eventually("the link", || (gateway.metric(&connected) > 0.0).then_some(()));
    let mut command = program(client);
    let producer = match client {
        Client::SeedGo | Client::Go => {
            let how = if client == Client::SeedGo { "seed-producer" } else { "producer" };
            Process::start(command.args([
                how,
                "-nsqd",
                &tcp,
                "-topic",
                TOPIC,
                "-addr",
                &addr,
                "-interval",
                "1s",
            ]))
        }
        Client::Python | Client::Node => Process::start(command.args([
            "produce",
            "--nsqd",
            &tcp,
            "--topic",
            TOPIC,
            "--body",
            &addr,
            "--interval",
            "1",
        ])),
        // Once is enough for curl: the others prove that it goes on.
        Client::Curl => {
            Process::start(command.args(["-sS", "-d", &addr, &format!("http://{http}/pub?topic={TOPIC}")]))
        }
    };
    gateway.wait_for_live(&[&addr]);
    eventually("an answer", || (get(gateway.listen, "/").text() == "announced").then_some(()));
    if client != Client::Curl {
        // Longer than the TTL: the heartbeats go on and are read.
        for _ in 0..50 {
            pause(std::time::Duration::from_millis(100));
            assert_eq!(gateway.live(), [addr.as_str()], "{}", producer.output());
        }
    }
    drop(producer);
    gateway.wait_for_live(&[]);
}

/// Messages that were published before and while a client consumes.
fn consumes(broker: Broker, client: Client) {
    let cluster = Cluster::start(broker, 1);
    let tcp = cluster.nsqds[0].tcp.to_string();
    let bodies: Vec<_> = (0..20).map(|n| format!("body-{n}")).collect();
    for body in &bodies[..10] {
        cluster.nsqds[0].post(PUBLISH, body.as_bytes());
    }
    let mut command = program(client);
    let mut consumer = match client {
        Client::Go => Process::start(command.args([
            "consumer",
            "-nsqd",
            &tcp,
            "-topic",
            OTHER_TOPIC,
            "-channel",
            "c",
            "-count",
            "20",
            "-timeout",
            "20s",
        ])),
        _ => Process::start(command.args([
            "consume",
            "--nsqd",
            &tcp,
            "--topic",
            OTHER_TOPIC,
            "--channel",
            "c",
            "--count",
            "20",
            "--timeout",
            "20",
        ])),
    };
    consumer.wait_for("the backlog", |line| line.contains("body-9").then_some(()));
    for body in &bodies[10..] {
        cluster.nsqds[0].post(PUBLISH, body.as_bytes());
    }
    let status = consumer.wait();
    let output = consumer.output();
    assert!(status.success(), "{output}");
    for body in &bodies {
        assert!(output.lines().any(|line| line == format!("1 {body}")), "{body} is missing in:\n{output}");
    }
    all_finished(&cluster, "c");
}

fn all_finished(cluster: &Cluster, name: &str) {
    eventually("every message to be finished", || {
        let stats =
            get(cluster.nsqds[0].http, &format!("/stats?format=json&topic={OTHER_TOPIC}&channel={name}"))
                .json();
        let channel = &stats["topics"][0]["channels"][0];
        (channel["depth"] == 0 && channel["in_flight_count"] == 0 && channel["channel_name"] == name)
            .then_some(())
    });
}

fn go_requeues(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    let tcp = cluster.nsqds[0].tcp.to_string();
    cluster.nsqds[0].post(PUBLISH, b"again");
    let mut command = program(Client::Go);
    command.args([
        "consumer",
        "-nsqd",
        &tcp,
        "-topic",
        OTHER_TOPIC,
        "-channel",
        "c",
        "-count",
        "1",
        "-timeout",
        "20s",
        "-requeue-first",
    ]);
    let mut consumer = Process::start(&mut command);
    assert!(consumer.wait().success(), "{}", consumer.output());
    let output = consumer.output();
    assert!(output.contains("1 again") && output.contains("2 again"), "{output}");
    all_finished(&cluster, "c");
}

fn go_looks_up(broker: Broker) {
    let cluster = Cluster::start(broker, 1);
    cluster.nsqds[0].post(PUBLISH, b"found");
    let lookup = cluster.lookups()[0].to_string();
    let mut command = program(Client::Go);
    command.args([
        "consumer",
        "-lookupd",
        &lookup,
        "-topic",
        OTHER_TOPIC,
        "-channel",
        "c",
        "-count",
        "1",
        "-timeout",
        "20s",
    ]);
    let mut consumer = Process::start(&mut command);
    assert!(consumer.wait().success(), "{}", consumer.output());
}
