//! A request's way through the gateway, with raw bytes on both sides.

mod edge;
mod failures;
mod http2;
mod limits;
mod messages;
mod tls;

use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = messages::trials();
    trials.extend(failures::trials());
    trials.extend(limits::trials());
    trials.extend(http2::trials());
    trials.extend(edge::trials());
    trials.extend(tls::trials());
    trials
}
