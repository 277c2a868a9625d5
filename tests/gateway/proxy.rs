//! A request's way through the gateway, with raw bytes on both sides.

mod failures;
mod grpc;
mod h2c;
mod http2;
mod limits;
mod messages;

use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    let mut trials = messages::trials();
    trials.extend(failures::trials());
    trials.extend(limits::trials());
    trials.extend(http2::trials());
    trials.extend(h2c::trials());
    trials.extend(grpc::trials());
    trials
}
