//! The gateway from outside: real processes, real sockets, real NSQ.
//!
//! Which tests can run is known only at run time: those that need nsqd, or a client in another language, are
//! reported as ignored, by name, where those cannot be had. With `CI` set they fail instead.

// A test fails by panicking, and its files are nobody's library.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(unreachable_pub, missing_docs, clippy::missing_panics_doc)]
// What is waited for is real time.
#![allow(clippy::disallowed_types)]

mod access_log;
mod admin;
mod cli;
mod clients;
mod cluster;
mod dashboards;
mod demo;
mod docs;
mod goodbye;
mod health;
mod live_set;
mod logs;
mod packaging;
mod page;
mod proxy;
mod reload;
mod restart;
mod rooms;
mod signed;
mod support;
mod systemd;
mod takeover;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let (mut arguments, more_filters) = arguments(std::env::args().collect());
    let mut trials = Vec::new();
    trials.extend(rooms::trials());
    trials.extend(docs::trials());
    trials.extend(cli::trials());
    trials.extend(admin::trials());
    trials.extend(page::trials());
    trials.extend(dashboards::trials());
    trials.extend(logs::trials());
    trials.extend(access_log::trials());
    trials.extend(proxy::trials());
    trials.extend(demo::trials());
    trials.extend(cluster::trials());
    trials.extend(live_set::trials());
    trials.extend(goodbye::trials());
    trials.extend(health::trials());
    trials.extend(packaging::trials());
    trials.extend(signed::trials());
    trials.extend(reload::trials());
    trials.extend(restart::trials());
    trials.extend(systemd::trials());
    trials.extend(takeover::trials());
    trials.extend(clients::trials());
    trials.extend(proxy::rows_trials(&trials));
    if !more_filters.is_empty() {
        let filters: Vec<_> = more_filters.into_iter().chain(arguments.filter.take()).collect();
        let is_named = |trial: &Trial, filter: &String| {
            if arguments.exact { trial.name() == filter } else { trial.name().contains(filter) }
        };
        trials.retain(|trial| filters.iter().any(|filter| is_named(trial, filter)));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The command line, and the filters in it that `libtest_mimic` does not take: it takes one, where Rust's own harness
/// takes several.
fn arguments(mut line: Vec<String>) -> (Arguments, Vec<String>) {
    let last_option = line.iter().rposition(|word| word.starts_with('-')).unwrap_or(0);
    // The word after an option may be its value.
    let more_filters = line.split_off(line.len().min(last_option + 2));
    (Arguments::from_iter(line), more_filters)
}
