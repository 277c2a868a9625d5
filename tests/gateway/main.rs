//! The gateway from outside: real processes, real sockets, real NSQ.
//!
//! Which tests can run is known only at run time: those that need nsqd, or a client in another language, are
//! reported as ignored, by name, where those cannot be had. With `CI` set they fail instead.

// A test fails by panicking, and its files are nobody's library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub, missing_docs, clippy::missing_panics_doc)]
// What is waited for is real time.
#![allow(clippy::disallowed_types)]

mod admin;
mod cli;
mod clients;
mod cluster;
mod dashboards;
mod demo;
mod docs;
mod goodbye;
mod proxy;
mod restart;
mod rooms;
mod signed;
mod support;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    trials.extend(rooms::trials());
    trials.extend(docs::trials());
    trials.extend(cli::trials());
    trials.extend(admin::trials());
    trials.extend(dashboards::trials());
    trials.extend(proxy::trials());
    trials.extend(demo::trials());
    trials.extend(cluster::trials());
    trials.extend(goodbye::trials());
    trials.extend(signed::trials());
    trials.extend(restart::trials());
    trials.extend(clients::trials());
    trials.extend(proxy::rows_trials(&trials));
    libtest_mimic::run(&arguments, trials).exit_code()
}
