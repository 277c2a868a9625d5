//! HTTP/2 to dataservers, with prior knowledge.

mod connections;
mod limits;
mod messages;
mod refusals;
mod uploads;

use libtest_mimic::Trial;

use crate::support::{Apiserver, H2Stub, PATIENT, Stub};

pub fn trials() -> Vec<Trial> {
    let mut trials = messages::trials();
    trials.extend(connections::trials());
    trials.extend(limits::trials());
    trials.extend(refusals::trials());
    trials.extend(uploads::trials());
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

/// Two dataservers, of which the gateway knows nothing but what they speak.
fn gateway_of(h2c: &[&H2Stub], http1: &[&Stub]) -> Apiserver {
    let gateway = Apiserver::start(PATIENT);
    for stub in h2c {
        gateway.heartbeat(&format!(r#"{{"addr":"{}","proto":"h2c"}}"#, stub.addr()));
    }
    for stub in http1 {
        gateway.heartbeat(&stub.addr().to_string());
    }
    let addrs = h2c.iter().map(|stub| stub.addr()).chain(http1.iter().map(|stub| stub.addr()));
    let addrs: Vec<_> = addrs.map(|addr| addr.to_string()).collect();
    gateway.wait_for_live(&addrs.iter().map(String::as_str).collect::<Vec<_>>());
    gateway
}
