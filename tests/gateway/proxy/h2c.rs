//! HTTP/2 to dataservers, with prior knowledge.

mod connections;
mod limits;
mod messages;

use libtest_mimic::Trial;

use crate::support::{Apiserver, H2Stub, PATIENT};

pub fn trials() -> Vec<Trial> {
    let mut trials = messages::trials();
    trials.extend(connections::trials());
    trials.extend(limits::trials());
    trials
}

fn gateway_and(stub: &H2Stub) -> Apiserver {
    gateway_with("", stub)
}

fn gateway_with(config: &str, stub: &H2Stub) -> Apiserver {
    let gateway = Apiserver::start(&format!("{PATIENT}{config}"));
    gateway.announce_h2c(&[stub.addr()]);
    gateway
}
