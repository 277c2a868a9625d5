//! gRPC through the gateway: a server and a client that others wrote, on both sides of it.

use std::net::SocketAddr;
use std::process::Command;

use libtest_mimic::Trial;

use crate::support::{Apiserver, PATIENT, Process, Stub, eventually, tools, trial_with};

/// The cases of the client that need nothing but a server.
const CASES: [&str; 10] = [
    "unary",
    "server_stream",
    "client_stream",
    "bidi",
    "metadata",
    "status",
    "cancel_waiting",
    "cancel_stream",
    "deadline",
    "concurrent_calls",
];

pub fn trials() -> Vec<Trial> {
    let trial = |name: &str, test: Box<dyn FnOnce() + Send>| {
        trial_with(&format!("proxy::grpc::http_42_{name}"), &tools::PYTHON, test)
    };
    let mut trials: Vec<_> = CASES.map(|case| trial(case, Box::new(move || one_server(case)))).into();
    trials.push(trial("a_server_is_killed_and_the_other_serves", Box::new(a_server_is_killed)));
    trials.push(trial("calls_go_to_who_speaks_http2", Box::new(calls_go_to_who_speaks_http2)));
    trials.push(trial("a_stream_may_be_quiet", Box::new(a_stream_may_be_quiet)));
    trials
}

fn python() -> Command {
    let mut command = Command::new(tools::PYTHON.as_ref().unwrap());
    command.arg(tools::source("tests/clients/python/grpc_calls.py")).env_remove("http_proxy");
    command
}

struct Server {
    process: Process,
    addr: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let process = Process::start(python().arg("serve"));
        let port = process.wait_for("port", |line| line.strip_prefix("port ")?.parse::<u16>().ok());
        Self { process, addr: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

fn client(gateway: &Apiserver, case: &str) -> Process {
    Process::start(python().args(["call", &gateway.listen.to_string(), case]))
}

#[track_caller]
fn succeeds(mut client: Process) {
    let status = client.wait();
    assert!(status.success(), "{}", client.output());
}

fn one_server(case: &str) {
    let server = Server::start();
    let gateway = Apiserver::start(PATIENT);
    gateway.announce_h2c(&[server.addr]);
    succeeds(client(&gateway, case));
    eventually("nothing under way", || (gateway.metric("gateway_requests_in_flight") == 0.0).then_some(()));
}

fn a_server_is_killed() {
    let mut servers = [Server::start(), Server::start()];
    let gateway = Apiserver::start(PATIENT);
    gateway.announce_h2c(&[servers[0].addr, servers[1].addr]);
    let client = client(&gateway, "killed");
    let hangs = eventually("a call that hangs", || {
        servers.iter().position(|server| server.process.output().contains("hangs"))
    });
    servers[hangs].process.kill();
    succeeds(client);
}

/// A fleet that moves from HTTP/1 to h2c one by one: calls go to those that can take them.
fn calls_go_to_who_speaks_http2() {
    let (server, http1) = (Server::start(), Stub::ok(""));
    let gateway = Apiserver::start(PATIENT);
    gateway.heartbeat(&http1.addr().to_string());
    gateway.heartbeat(&format!(r#"{{"addr":"{}","proto":"h2c"}}"#, server.addr));
    let (one, other) = (http1.addr().to_string(), server.addr.to_string());
    gateway.wait_for_live(&[one.as_str(), other.as_str()]);
    succeeds(client(&gateway, "concurrent_calls"));
    assert!(http1.requests().is_empty());
}

/// Time without a message, either way, is `timeouts.idle_tunnel`'s matter and not `timeouts.idle_body`'s.
fn a_stream_may_be_quiet() {
    let server = Server::start();
    let timeouts = "timeouts: {idle_body: 300ms, response_head: 300ms}\n";
    let gateway = Apiserver::start(&format!("{PATIENT}{timeouts}"));
    gateway.announce_h2c(&[server.addr]);
    succeeds(client(&gateway, "quiet"));
}
