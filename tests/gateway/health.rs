//! `apiserver health`: what a container's health check hears.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::support::tls::Pair;
use crate::support::{
    Apiserver, EndlessLookup, PATIENT, Process, Stub, eventually, tools, trial_with, trials, within,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = trials![
        a_gateway_that_runs_is_well,
        it_is_ready_once_somebody_is_live,
        it_is_asked_over_tls_and_the_proxy_protocol,
        it_is_asked_on_its_admin_listener,
        a_gateway_that_would_refuse_is_not_asked,
        a_client_that_may_not_ask_hears_so,
        nobody_there_and_nobody_answering_are_told_apart,
        a_fault_elsewhere_in_the_file_does_not_matter,
        a_gateway_whose_file_was_broken_is_well_where_it_is_found,
        any_http_server_can_be_asked,
    ];
    trials.push(trial_with(
        "health::an_answer_is_not_waited_for_longer_than_was_said_by_a_name_that_is_looked_up",
        &tools::ENDLESS_LOOKUP,
        a_name_that_is_looked_up_for_ever,
    ));
    trials
}

/// Asks with a config file of its own.
fn health(gateway: &str, args: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, gateway).unwrap();
    ask(&file, args)
}

fn ask(file: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apiserver"));
    command.arg("health").args(args).arg("--config").arg(file).output().unwrap()
}

fn listens(addr: SocketAddr, more: &str) -> String {
    format!("gateway: {{listen: '{addr}'{more}}}\n")
}

#[track_caller]
fn is_well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"status\":\"ok\"}\n");
}

#[track_caller]
fn is_not(output: &Output, code: i32, why: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(why), "{said}");
    assert!(output.stdout.is_empty());
}

fn a_gateway_that_runs_is_well() {
    let gateway = Apiserver::start("gateway: {listen: '0.0.0.0:0'}");
    is_well(&health(&listens(gateway.listen, ""), &[]));
}

fn it_is_ready_once_somebody_is_live() {
    let gateway = Apiserver::start(PATIENT);
    let file = listens(gateway.listen, "");
    is_not(&health(&file, &["--ready"]), 1, "503 Service Unavailable: {");
    let stub = Stub::ok("");
    gateway.announce(&[stub.addr()]);
    assert!(health(&file, &["--ready"]).status.success());
}

fn it_is_asked_over_tls_and_the_proxy_protocol() {
    let dir = tempfile::tempdir().unwrap();
    Pair::new().write(dir.path());
    let path = dir.path().display();
    let tls = format!("tls: {{cert: {path}/cert.pem, key: {path}/key.pem}}");
    for more in [tls.clone(), "proxy_protocol: true".to_owned(), format!("{tls}, proxy_protocol: loopback")] {
        let gateway = Apiserver::start(&format!("gateway: {{{more}}}"));
        is_well(&health(&listens(gateway.listen, &format!(", {more}")), &[]));
    }
}

fn it_is_asked_on_its_admin_listener() {
    let gateway = Apiserver::start("gateway: {admin_listen: '127.0.0.1:0', proxy_protocol: [10.0.0.0/8]}");
    let more = format!(", admin_listen: '{}', proxy_protocol: [10.0.0.0/8]", gateway.admin.unwrap());
    is_well(&health(&listens(gateway.listen, &more), &[]));
}

fn a_gateway_that_would_refuse_is_not_asked() {
    let nobody = listens(Stub::refusing(), ", proxy_protocol: [10.0.0.0/8]");
    is_not(&health(&nobody, &[]), 1, "set gateway.admin_listen");
}

fn a_client_that_may_not_ask_hears_so() {
    let gateway = Apiserver::start("gateway: {admin_allow: [10.0.0.0/8]}");
    is_not(&health(&listens(gateway.listen, ""), &[]), 1, "gateway.admin_allow");
}

fn nobody_there_and_nobody_answering_are_told_apart() {
    let nobody = Stub::refusing();
    is_not(&health(&listens(nobody, ""), &[]), 1, &format!("{nobody} does not answer: cannot connect: "));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let file = listens(silent.local_addr().unwrap(), "");
    is_not(&health(&file, &["--timeout", "50ms"]), 1, "does not answer: no answer within 50ms");
    is_not(&health(&file, &["--timeout", "soon"]), 1, "invalid value 'soon'");
}

fn a_fault_elsewhere_in_the_file_does_not_matter() {
    let gateway = Apiserver::start("");
    let file = listens(gateway.listen, ", workers: many") + "registry: {ttl: long}\nno_section: 1\n";
    is_well(&health(&file, &[]));
}

/// It goes on with the config that it has: a file that was broken since is no reason to restart it, into the fault.
fn a_gateway_whose_file_was_broken_is_well_where_it_is_found() {
    let fault = "gateway.listen: 9000 is not HOST:PORT";
    let file = |admin: SocketAddr| format!("gateway: {{listen: 9000, admin_listen: '{admin}'}}");
    let gateway = Apiserver::start("gateway: {admin_listen: '127.0.0.1:0'}");
    let output = health(&file(gateway.admin.unwrap()), &[]);
    is_well(&output);
    assert!(String::from_utf8_lossy(&output.stderr).contains(fault), "{output:?}");
    is_not(&health(&file(Stub::refusing()), &[]), 78, fault);
    // Where nothing can be read the defaults hold, and whoever listens there on this machine is none of ours.
    for (output, fault) in [
        (health("gateway: {listen", &[]), "is not YAML"),
        (ask(Path::new("no/such/file"), &[]), "cannot be read"),
    ] {
        assert!(String::from_utf8_lossy(&output.stderr).contains(fault), "{output:?}");
    }
}

fn any_http_server_can_be_asked() {
    let stub = Stub::ok("hello");
    let output = ask(Path::new("no/such/file"), &["--addr", &stub.addr().to_string()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"hello\n");
}

fn a_name_that_is_looked_up_for_ever() {
    let lookup = EndlessLookup::new();
    let addr = format!("{}:1", EndlessLookup::NAME);
    let mut command = Command::new(env!("CARGO_BIN_EXE_apiserver"));
    lookup.with(command.args(["health", "--timeout", "1s", "--addr", &addr]));
    let mut asks = Process::start(&mut command);
    let _lasts = eventually("the lookup", || lookup.begun());
    within(Duration::from_secs(5), "its end", || (!asks.is_running()).then_some(()));
    assert_eq!(asks.wait().code(), Some(1));
    assert!(asks.output().contains("does not answer"), "{}", asks.output());
}
